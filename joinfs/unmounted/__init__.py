"""Stores without a mount, for libraries that take files: ``fsspec``'s file system, and a mapping."""
