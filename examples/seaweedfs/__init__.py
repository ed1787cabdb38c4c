"""SeaweedFS, through its likeness of S3: the adapter is that of `examples.aws`."""
