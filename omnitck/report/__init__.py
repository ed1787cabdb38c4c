"""Views of the outcome stream, one file each: the certificate (JSON), the terminal.

JUnit XML, HTML, Markdown and the badge are further views; each takes a `Certificate` and writes one file.
"""
