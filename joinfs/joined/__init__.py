"""Stores joined into one. What is opened by URL here can be a join too: the layers of a container image, ``oci:``."""

from joinfs.stores import REGISTRY, Store, open_store

__all__ = ["open_store"]


def _open_image(path: str, read_only: bool) -> Store:
    # Here, because it is seldom wanted.
    from joinfs.joined.image import open_image  # noqa: PLC0415

    return open_image(path, read_only)


REGISTRY["oci"] = _open_image
