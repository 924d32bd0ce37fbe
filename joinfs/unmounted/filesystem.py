"""``joinfs://``: a join, or any other store, as a file system of fsspec's, which pandas, dask, zarr and others read.

    fs = fsspec.filesystem("joinfs", stores=["sqlite:changes.db", "/data"])

``joinfs://a/b`` is the key ``a/b``, and so are ``a/b`` and ``/a/b``. Directories on the way to what is written
are made. Symlinks are followed within the store. Nothing is cached here.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from glob import has_magic
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.utils import stringify_path, tokenize

from joinfs.errors import IsADirectory, KeyExists, NotADirectory
from joinfs.joined.store import DIRECTORY_TTL
from joinfs.stores import Stat, Store
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE
from joinfs.stores.keys import ROOT, ancestors, directory_key, is_directory_key, split
from joinfs.stores.value import NANOSECONDS, new_stat, now
from joinfs.stores.whole import whole
from joinfs.unmounted.files import CompressedFile, CountedFile, StagedFile, StoredFile, TextFile
from joinfs.unmounted.instances import Instances, StoreTransaction
from joinfs.unmounted.links import Found, follow
from joinfs.unmounted.opening import join_of
from joinfs.unmounted.refusing import as_oserror

_TEXT = ("encoding", "errors", "newline")


class JoinFileSystem(AbstractFileSystem, metaclass=Instances):  # type: ignore[misc]
    """A store, or the join of several, as fsspec wants it.

    Errors are those of Python's own files: ``FileNotFoundError``, ``IsADirectoryError`` and so on; ``OSError`` with
    ``EROFS`` if the first store takes no writes.

    Args:
        store: A store, which may be a ``JoinedStore``; a mapping.
        stores: What is joined, if ``store`` is not given: whatever ``open_store`` takes, and stores.
        directory_ttl, whiteouts, metacopy: As for ``JoinedStore``.
        storage_options: Those of any ``AbstractFileSystem``.

    It can be sent to other processes (pickled) if all that is joined is given as URLs, and none is ``memory:``.
    """

    protocol = "joinfs"
    transaction_type = StoreTransaction

    def __init__(
        self,
        store: Any = None,
        stores: Any = None,
        *,
        directory_ttl: float = DIRECTORY_TTL,
        whiteouts: str = "oci",
        metacopy: bool | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self._join = join_of(store, stores, {"directory_ttl": directory_ttl, "whiteouts": whiteouts, "metacopy": metacopy})

    @property
    def store(self) -> Store:
        """The store, which stays connected as long as this object is there."""
        return self._join.store

    @property
    def _fs_token(self) -> str:
        return str(self._fs_token_ if self._join.by_url else tokenize(self._fs_token_, self._join.number))

    @property
    def fsid(self) -> str:
        """Names the same stores in all processes, if they were given as URLs."""
        return f"joinfs_{tokenize(self.storage_args, self.storage_options) if self._join.by_url else self._fs_token}"

    def __reduce__(self) -> Any:
        if not self._join.is_portable():
            raise TypeError(
                "this file system cannot be sent to another process, which could not open the same stores: "
                "give them all as URLs, and none of them 'memory:'"
            )
        return super().__reduce__()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = stringify_path(path)
        bare = text.removeprefix("joinfs://").removeprefix("joinfs::")
        # Names have a / at their beginning if what was asked for has one: zarr and pyarrow compare them with that.
        root = "/" if bare is text and text.startswith("/") else ""
        return root + "/".join(name for name in bare.split("/") if name not in {"", "."})

    def _find(self, path: str, last: bool = True) -> tuple[str, Stat, str | None]:
        """What ``follow`` answers, if something is there.

        Raises:
            KeyError: Nothing is.
        """
        key, stat, target = self._follow(path, last)
        if stat is None:
            raise KeyError(path)
        return key, stat, target

    def _follow(self, path: str, last: bool = True) -> Found:
        return follow(self.store, path.strip("/"), last)

    # ---------------------------------------------------------------- attributes and listings

    def info(self, path: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer what is known of a path: ``name``, ``size``, ``type``, ``mtime`` and so on.

        A symlink's are those of what it leads to, and ``destination``.
        """
        name = self._strip_protocol(path)
        with as_oserror(name):
            _, stat, target = self._find(name)
            return _details(name, stat, target)

    def ls(self, path: Any, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a directory, by name; of anything else, that alone.

        A symlink to a directory is of type ``other`` here, so that who walks does not walk in circles.
        """
        name = self._strip_protocol(path)
        with as_oserror(name):
            key, stat, target = self._find(name)
            if stat.is_directory:
                above = f"{name.rstrip('/')}/" if name else ""
                entries = [self._listed(above + one, attributes) for one, attributes in sorted(self.store.list(key))]
            else:
                entries = [_details(name, stat, target)]
        return entries if detail else [one["name"] for one in entries]

    def _listed(self, name: str, stat: Stat) -> dict[str, Any]:
        if not stat.is_symlink:
            return _details(name, stat, None)
        with contextlib.suppress(KeyError, NotADirectory):
            _, there, target = self._find(name)
            if there.is_file:
                return _details(name, there, target)
        return _details(name, stat._replace(size=0), None) | {"islink": True}

    def exists(self, path: Any, **kwargs: Any) -> bool:
        """Whether something is there. Errors of a store that cannot be reached are raised, as everywhere else."""
        return self._is_there(path, last=True)

    def lexists(self, path: Any, **kwargs: Any) -> bool:
        return self._is_there(path, last=False)

    def _is_there(self, path: Any, last: bool) -> bool:
        name = self._strip_protocol(path)
        try:
            with as_oserror(name):
                return self._follow(name, last).stat is not None
        except (FileNotFoundError, NotADirectoryError):
            return False

    def metadata(self, path: Any) -> dict[str, Any]:
        """Answer the metadata of a path, which ``open`` and ``pipe_file`` take as ``metadata=``."""
        name = self._strip_protocol(path)
        with as_oserror(name):
            return self.store.get_metadata(self._find(name)[0])

    def created(self, path: Any) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.info(path)["created"], dt.UTC)

    def modified(self, path: Any) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.info(path)["mtime"], dt.UTC)

    # ---------------------------------------------------------------- data

    def cat_file(self, path: Any, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        name = self._strip_protocol(path)
        with as_oserror(name):
            key, stat = self._file(name)
            first, last, _ = slice(start, end).indices(stat.size)
            if start is not None or end is not None:
                return self.store.read(key, first, last - first) if last > first else b""
            with contextlib.closing(self.store.get(key)) as value:
                return whole(value, name).read()

    def _file(self, name: str) -> tuple[str, Stat]:
        """The key and the attributes of what is there, which is no directory."""
        key, stat, _ = self._find(name)
        if stat.is_directory:
            raise IsADirectory(f"{name!r} is a directory")
        return key, stat

    def open(self, path: Any, mode: str = "rb", compression: str | None = None, **kwargs: Any) -> Any:
        """Open a file: ``rb`` as it is then; ``wb``, ``xb``, ``ab``, ``r+b``, ``w+b`` as ``StagedFile`` says; or text.

        Args:
            path, mode: As of Python's ``open``.
            compression: One of fsspec's, or ``infer``.
            kwargs: Those of ``AbstractFileSystem.open``; ``metadata``, for what is written.
        """
        if "b" not in mode:
            text = {name: kwargs.pop(name) for name in _TEXT if name in kwargs}
            return TextFile(self.open(path, mode.replace("t", "") + "b", compression, **kwargs), **text)
        codec = get_compression(self._strip_protocol(path), compression)
        file = super().open(path, mode, **kwargs)
        return file if codec is None else CompressedFile(compr[codec](file, mode=mode[0]), file)

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, autocommit: bool = True,
        cache_options: Any = None, metadata: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        with as_oserror(path):
            if set(mode) == {"r", "b"}:
                return StoredFile(self, path, self.store.get(self._file(path)[0]))
            if mode.replace("+", "", 1) not in {"wb", "xb", "ab", "rb"} or mode in {"a+b", "ab+"}:
                raise ValueError(f"{mode!r} is no mode to open a file with here")
            found = self._follow(path)
            self._check_replaceable(path, found, mode[0])
            size = found.stat.size if found.stat is not None and mode[0] == "a" else 0
            file = StagedFile(self, path, found.key, mode, autocommit, metadata, size)
            if mode[0] == "r":
                with contextlib.closing(self.store.get(found.key)) as value:
                    file.begin_with(value)
            return file

    def _check_replaceable(self, path: str, found: Found, how: str) -> None:
        """Refuse now what the store would refuse when the file is closed, as far as that is known."""
        if is_directory_key(found.key):
            raise IsADirectory(f"{path!r} is a directory")
        self.store._check_writable(found.key)
        if found.stat is None and how == "r":
            raise KeyError(path)
        if found.stat is not None and how == "x":
            raise KeyExists(f"{path!r} is there already")

    def pipe_file(self, path: Any, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Set the data of a file, in one step."""
        with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
            file.write(value)

    def put_file(self, lpath: Any, rpath: Any, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any) -> None:
        """Copy a file of the host, whose data gets into the store in one step, or make a directory."""
        if os.path.isdir(lpath) or mode == "create" or self._intrans or kwargs:
            super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)
            return
        name = self._strip_protocol(rpath)
        with open(lpath, "rb") as file, as_oserror(name):
            found = self._follow(name)
            self._check_replaceable(name, found, "w")
            callback.set_size(os.fstat(file.fileno()).st_size)
            self.store.set_data(found.key, file if callback is DEFAULT_CALLBACK else CountedFile(file, callback))

    def cp_file(self, path1: Any, path2: Any, **kwargs: Any) -> None:
        """Copy a file, with its metadata, in one step; or make a directory."""
        source, name = self._strip_protocol(path1), self._strip_protocol(path2)
        with as_oserror(source):
            key, stat, _ = self._find(source)
            if stat.is_directory:
                self.makedirs(name, exist_ok=True)
                return
            with contextlib.closing(self.store.get(key)) as value, as_oserror(name):
                found = self._follow(name)
                self._check_replaceable(name, found, "w")
                self.store.set(found.key, (whole(value, source), value.metadata))

    def touch(self, path: Any, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file, or empty one, or (``truncate=False``) set the times of one that is there to now."""
        name = self._strip_protocol(path)
        with as_oserror(name):
            found = self._follow(name)
            if found.stat is None or truncate:
                self.pipe_file(name, b"", **kwargs)
            else:
                self.store.set_stat(found.key, atime=now(), mtime=now())

    # ---------------------------------------------------------------- directories, moving and removing

    def mkdir(self, path: Any, create_parents: bool = True, **kwargs: Any) -> None:
        name = self._strip_protocol(path)
        with as_oserror(name):
            found = self._follow(name)
            if found.stat is not None:
                raise KeyExists(f"{name!r} is there already")
            if create_parents:
                for directory in ancestors(found.key):
                    self._make(directory)
            self.store.make(directory_key(found.key), self._new_directory())

    def _make(self, directory: str) -> None:
        with contextlib.suppress(KeyExists):
            if not self.store.exists(directory):
                self.store.make(directory, self._new_directory())

    def _new_directory(self) -> Stat:
        return new_stat(DEFAULT_DIRECTORY_MODE, *self.store._default_owner())

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        name = self._strip_protocol(path)
        try:
            self.mkdir(name)
        except FileExistsError:
            if not exist_ok or not self.isdir(name):
                raise

    def rmdir(self, path: Any) -> None:
        name = self._strip_protocol(path)
        with as_oserror(name):
            key, stat, _ = self._find(name, last=False)
            if not stat.is_directory:
                raise NotADirectory(f"{name!r} is not a directory")
            self.store.delete(key)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files, which globs may name, and with ``recursive`` directories with all below them; symlinks themselves.

        Raises:
            IsADirectoryError: It is one, and ``recursive`` is False.
        """
        if maxdepth is not None:
            super().rm(path, recursive, maxdepth)
            return
        for one in path if isinstance(path, list | tuple | set) else [path]:
            name = self._strip_protocol(one)
            names = [name] if not has_magic(name) or self.lexists(name) else self.expand_path(name)
            for each in names:
                self._remove(each, recursive)

    def _rm(self, path: Any) -> None:
        """Delete a file, a symlink or an empty directory."""
        name = self._strip_protocol(path)
        with as_oserror(name):
            self.store.delete(self._find(name, last=False)[0])

    def _remove(self, name: str, recursive: bool) -> None:
        with as_oserror(name):
            key, stat, _ = self._find(name, last=False)
            if stat.is_directory and not recursive:
                raise IsADirectory(f"{name!r} is a directory: say recursive=True to remove it")
            for each in self._bottom_up(key) if stat.is_directory else [key]:
                self.store.delete(each)

    def _bottom_up(self, directory: str) -> Iterator[str]:
        """The keys of all below a directory, and its own (but not the root's) at the end."""
        for name, stat in tuple(self.store.list(directory)):
            if stat.is_directory:
                yield from self._bottom_up(f"{directory}{name}/")
            else:
                yield directory + name
        if directory != ROOT:
            yield directory

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Move a file or a directory with all below it, as ``Store.rename``; into ``path2`` if that is a directory.

        What globs or a list name is copied, and then removed.
        """
        if not isinstance(path1, str | os.PathLike) or maxdepth is not None or (has_magic(str(path1)) and not self.lexists(path1)):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth)
            return
        source, name = self._strip_protocol(path1), self._strip_protocol(path2)
        if source != name and (stringify_path(path2).endswith("/") or self.isdir(name)):
            name = f"{name}/{split(source)[1]}"
        with as_oserror(source):
            key, stat, _ = self._find(source, last=False)
            target = self._follow(name, last=False).key.removesuffix("/")
            self.store.rename(key, directory_key(target) if stat.is_directory else target)


def _details(name: str, stat: Stat, target: str | None) -> dict[str, Any]:
    kind = "directory" if stat.is_directory else "file" if stat.is_file else "other"
    details = {
        "name": name, "size": 0 if stat.is_directory else stat.size, "type": kind,
        "created": (stat.birth or stat.ctime) / NANOSECONDS, "mtime": stat.mtime / NANOSECONDS, "ctime": stat.ctime / NANOSECONDS,
        "mode": stat.mode, "uid": stat.uid, "gid": stat.gid, "nlink": stat.nlink, "ino": stat.file_id, "islink": target is not None,
    }  # fmt: skip
    return details if target is None else {**details, "destination": target}
