"""Run suites by Django's own runner, in two processes: `python run_under_django.py one_verdict.TestFailing ...`."""

import sys

import django
from django.conf import settings
from django.test.runner import DiscoverRunner

if __name__ == "__main__":
    settings.configure(DATABASES={}, INSTALLED_APPS=[])
    django.setup()
    sys.exit(bool(DiscoverRunner(parallel=2, verbosity=2).run_tests(sys.argv[1:])))
