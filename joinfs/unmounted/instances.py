"""How fsspec keeps file systems apart, and groups what is written in them."""

from typing import Any

from fsspec import AbstractFileSystem
from fsspec.transaction import Transaction

from joinfs.unmounted.opening import is_url
from joinfs.unmounted.refusing import as_oserror


class Instances(type(AbstractFileSystem)):  # type: ignore[misc]
    """Keeps fsspec from giving out a file system again that was made for another store: it knows them by their ``repr``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        for option in (*args[:2], kwargs.get("store"), kwargs.get("stores")):
            things = option if isinstance(option, list | tuple) else [option]
            if not all(thing is None or is_url(thing) for thing in things):
                kwargs["skip_instance_cache"] = True
        return super().__call__(*args, **kwargs)


class StoreTransaction(Transaction):  # type: ignore[misc]
    """What was written in it gets into the store as one transaction of the store."""

    def complete(self, commit: bool = True) -> None:
        """Put it all into the store, or drop it.

        Raises:
            OSError: What the store refuses. Nothing has changed then, if the store's transactions can be undone.
        """
        fs = self.fs
        try:
            if commit:
                with as_oserror(""), fs.store.transaction("files of an fsspec transaction"):
                    super().complete()
            else:
                super().complete(commit=False)
        finally:  # file systems are given out again, and must not go on holding back what is written
            fs._intrans, fs._transaction = False, None
