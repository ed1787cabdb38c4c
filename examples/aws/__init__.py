"""Amazon Web Services through aiobotocore, certified on moto."""
