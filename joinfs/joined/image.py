"""Container images as joined stores of their layers.

See Also:
    The OCI Image Format Specification: image-layout.md, image-index.md, manifest.md, layer.md.
"""

import contextlib
import hashlib
import json
import os
import platform
import posixpath
import re
from collections.abc import Iterator
from typing import Any, Protocol

from joinfs.errors import CorruptStore, StoreUnavailable, Unsupported, UsageError
from joinfs.joined.store import JoinedStore
from joinfs.stores import Store
from joinfs.stores.memory import MemoryStore
from joinfs.stores.tar import TarStore
from joinfs.stores.views import ReadOnlyStore

MOST_JSON = 8 << 20
REF_NAME = "org.opencontainers.image.ref.name"
_DIGEST = re.compile(r"([a-z0-9+._-]+):([0-9a-f]{32,128})")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
Json = dict[str, Any]


class _Files(Protocol):
    """Where the files of an image are."""

    def read(self, name: str) -> bytes:
        """The content of a small file; KeyError if it is not there."""

    def layer(self, name: str) -> TarStore:
        """A layer's archive; KeyError if it is not there."""


class _InDirectory:
    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        try:
            with open(os.path.join(self._path, name), "rb") as file:
                return file.read(MOST_JSON)
        except OSError as error:
            raise KeyError(name) from error

    def layer(self, name: str) -> TarStore:
        path = os.path.join(self._path, name)
        if not os.path.exists(path):
            raise KeyError(name)
        return TarStore(path)


class _InArchive:
    """A tar archive of those files, as ``docker save`` makes it; its layers are read where they are in it."""

    def __init__(self, outer: TarStore) -> None:
        self._outer = outer

    def _key(self, name: str) -> str:
        if self._outer.stat(name).is_symlink:
            target = os.fsdecode(self._outer.to_bytes(name))
            return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return name

    def read(self, name: str) -> bytes:
        return self._outer.read(self._key(name), 0, MOST_JSON)

    def layer(self, name: str) -> TarStore:
        return self._outer.inner(self._key(name))


class ImageStore(JoinedStore):
    """The root file system of a container image: its layers joined, the last one first. Takes no writes.

    Args:
        path: An OCI image layout (a directory), or a tar archive of one, or what ``docker save`` wrote.
        tag: Which image, if there are several: its tag, or ``NAME:TAG``. Of images for several platforms
            it is the one for this machine.
        event_manager: As for ``Store``.

    Raises:
        StoreUnavailable: There is no such file.
        UsageError: There is no such image in it.
        CorruptStore: It is no image, or a damaged one.
        Unsupported: The image is in a form that is not known.
    """

    def __init__(self, path: str | os.PathLike[str], tag: str | None = None, event_manager: Any = None) -> None:
        self.path = os.path.abspath(path)
        name = f"oci:{os.fspath(path)}" + (f":{tag}" if tag else "")
        with _files(self.path) as files:
            names = _layers(files, self.path, tag)
            layers: list[Store] = [self._layer(files, layer) for layer in reversed(names)]
        for number, layer in enumerate(layers):
            layer.name = f"{name} layer {len(layers) - number}"
        super().__init__(layers or [ReadOnlyStore(MemoryStore())], event_manager)
        self.name = name

    def _layer(self, files: _Files, name: str) -> TarStore:
        try:
            return files.layer(name)
        except KeyError:
            raise CorruptStore(f"{self.path} lacks the layer {name}") from None


@contextlib.contextmanager
def _files(path: str) -> Iterator[_Files]:
    if os.path.isdir(path):
        yield _InDirectory(path)
        return
    if not os.path.exists(path):
        raise StoreUnavailable(f"there is no image at {path}")
    with TarStore(path) as outer:
        yield _InArchive(outer)


def _layers(files: _Files, path: str, tag: str | None) -> list[str]:
    """The names of an image's layers, the first to be unpacked first."""
    with contextlib.suppress(KeyError):
        return _docker_layers(_json(files.read("manifest.json"), path), path, tag)
    try:
        index = _object(_json(files.read("index.json"), path), path)
    except KeyError:
        raise CorruptStore(f"{path} is no image: it has neither index.json nor manifest.json") from None
    manifest = _manifest(files, _chosen(_list(index, "manifests", path), path, tag), path)
    layers = _list(manifest, "layers", path)
    for layer in layers:
        if "encrypted" in str(layer.get("mediaType")):
            raise Unsupported(f"{path} has encrypted layers")
    return [_blob(layer, path) for layer in layers]


def _docker_layers(images: Any, path: str, tag: str | None) -> list[str]:
    """The layers by the manifest of ``docker save``, which lists images."""
    images = [_object(image, path) for image in images] if isinstance(images, list) else []
    tags = {str(name): image for image in images for name in image.get("RepoTags") or ()}
    if tag is None and len(images) == 1:
        chosen = images[0]
    else:
        found = [image for name, image in tags.items() if _is_called(name, tag)]
        if len(found) != 1:
            raise _no_such(path, tag, sorted(tags))
        chosen = found[0]
    names = chosen.get("Layers")
    if not isinstance(names, list) or not all(isinstance(n, str) and _is_inside(n) for n in names):
        raise CorruptStore(f"{path} has a manifest without a list of layers")
    return names


def _is_called(name: str, tag: str | None) -> bool:
    """Whether a name such as ``docker.io/library/NAME:TAG`` is meant by ``NAME:TAG`` or ``TAG``."""
    return tag is not None and (name == tag or name.endswith((f"/{tag}", f":{tag}")))


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _chosen(manifests: list[Json], path: str, tag: str | None) -> Json:
    """The descriptor of the image that is meant: by its tag, and of the rest by its platform."""
    tags = sorted({str(_annotations(m)[REF_NAME]) for m in manifests if REF_NAME in _annotations(m)})
    if tag is not None:
        manifests = [m for m in manifests if _is_called(str(_annotations(m).get(REF_NAME, "")), tag)]
    elif len(tags) > 1:
        raise _no_such(path, tag, tags)
    if len(manifests) > 1:
        wanted = ("linux", _ARCHITECTURES.get(platform.machine(), platform.machine()))
        manifests = [m for m in manifests if _platform(m) == wanted]
    if len(manifests) != 1:
        raise _no_such(path, tag, tags)
    return manifests[0]


def _no_such(path: str, tag: str | None, tags: list[str]) -> UsageError:
    there = f"it has {', '.join(tags)}" if tags else "none of its images has a tag"
    if tag is None:
        return UsageError(f"{path} has several images, or none for this machine; say which with oci:{path}:TAG ({there})")
    return UsageError(f"{path} has no image {tag} for this machine; {there}")


def _annotations(descriptor: Json) -> Json:
    found = descriptor.get("annotations")
    return found if isinstance(found, dict) else {}


def _platform(descriptor: Json) -> tuple[Any, Any]:
    found = descriptor.get("platform")
    return (found.get("os"), found.get("architecture")) if isinstance(found, dict) else (None, None)


def _manifest(files: _Files, descriptor: Json, path: str, depth: int = 0) -> Json:
    """The manifest behind a descriptor; an index on the way is chosen from."""
    name = _blob(descriptor, path)
    try:
        content = files.read(name)
    except KeyError:
        raise CorruptStore(f"{path} lacks the manifest {name}") from None
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    if algorithm == "sha256" and hashlib.sha256(content).hexdigest() != digest:
        raise CorruptStore(f"{path} has a manifest that is not the one that its index names: {name}")
    manifest = _object(_json(content, path), path)
    if "manifests" in manifest and depth < 4:
        return _manifest(files, _chosen(_list(manifest, "manifests", path), path, None), path, depth + 1)
    return manifest


def _blob(descriptor: Json, path: str) -> str:
    found = _DIGEST.fullmatch(str(descriptor.get("digest")))
    if found is None:
        raise CorruptStore(f"{path} names a blob {descriptor.get('digest')!r}, which is no digest")
    return f"blobs/{found[1]}/{found[2]}"


def _json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptStore(f"{path} has a manifest that is not JSON: {error}") from error


def _object(thing: Any, path: str) -> Json:
    if not isinstance(thing, dict):
        raise CorruptStore(f"{path} has a manifest that is not a JSON object")
    return thing


def _list(thing: Json, name: str, path: str) -> list[Json]:
    found = thing.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise CorruptStore(f"{path} has a manifest without a list of {name}")
    return found


def open_image(path: str, read_only: bool) -> Store:  # noqa: ARG001 - as all openers are called
    """Answer the store for ``oci:PATH[:TAG]``; errors as for ``ImageStore``."""
    place, tag = path, None
    while not os.path.exists(place) and ":" in place:
        place = place.rpartition(":")[0]
    if place != path and os.path.exists(place):
        tag = path[len(place) + 1 :]
    else:
        place = path
    return ImageStore(place, tag)
