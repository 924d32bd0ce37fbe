"""Container images as stores, compared with what unpacking them gives. SEMANTICS.md, Container images."""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile

import pytest

import joinfs
from joinfs.errors import CorruptStore, StoreUnavailable, UsageError
from joinfs.joined.image import ImageStore
from joinfs.testing import ReadOnlyContract
from tests.conftest import lacking

TIME = 1_500_000_000
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def need(program):
    if shutil.which(program) is None:
        lacking(f"{program} (apt-get install {program})")


class Layout:
    """An OCI image layout in the making."""

    def __init__(self, place):
        self.place = place
        (place / "blobs" / "sha256").mkdir(parents=True)
        (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests = []

    def blob(self, content, media_type, **more):
        digest = hashlib.sha256(content).hexdigest()
        (self.place / "blobs" / "sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def layer(self, members):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content, fields in members:
                info = tarfile.TarInfo(name)
                info.mtime, info.mode, info.size = TIME, 0o755 if fields.get("type") == tarfile.DIRTYPE else 0o644, len(content or b"")
                for field, value in fields.items():
                    setattr(info, field, value)
                archive.addfile(info, None if content is None else io.BytesIO(content))
        return raw.getvalue()

    def image(self, layers, tag=None, platform=None):
        config = {
            "architecture": ARCHITECTURE, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]},
            "history": [{"created_by": "a test"} for _ in layers],
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(gzip.compress(layer), "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
        }  # fmt: skip
        more = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
        if platform:
            more["platform"] = {"os": "linux", "architecture": platform}
        self.manifests.append(self.blob(json.dumps(manifest).encode(), manifest["mediaType"], **more))
        self.write_index()
        return self.manifests[-1]

    def write_index(self):
        (self.place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


DIRECTORY, LINK, HARD = {"type": tarfile.DIRTYPE}, tarfile.SYMTYPE, tarfile.LNKTYPE
XATTRS = {"SCHILY.xattr.user.colour": "red", "SCHILY.xattr.trusted.x": "1"}
LAYERS = [
    [
        ("./", None, {**DIRECTORY, "mode": 0o751}), ("etc/", None, {**DIRECTORY, "mode": 0o711, "uid": 7}), ("etc/kept", b"kept", {"mode": 0o4755, "uid": 1, "gid": 2}),
        ("etc/gone", b"gone", {}), ("etc/changed", b"old", {}), ("var/deep/down/file", b"d", {}), ("opaque/", None, DIRECTORY),
        ("opaque/old", b"o", {}), ("opaque/sub/older", b"o", {}), ("dir-to-file/x", b"x", {}), ("file-to-dir", b"f", {}),
        ("link", None, {"type": LINK, "linkname": "etc/kept"}), ("hard", None, {"type": HARD, "linkname": "etc/kept"}),
        ("null", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}), ("pipe", None, {"type": tarfile.FIFOTYPE}),
        ("whole/", None, DIRECTORY), ("whole/a", b"a", {}), ("tagged", b"t", {"pax_headers": XATTRS}), ("big", bytes(range(256)) * 5000, {}),
        ("again/", None, {**DIRECTORY, "mode": 0o700}), ("again/x", b"x", {}),
    ],
    [
        ("etc/.wh.gone", b"", {}), ("etc/changed", b"new", {"mode": 0o600}), ("var/deep/down/more", b"m", {}), ("opaque/", None, {**DIRECTORY, "mode": 0o700}),
        ("opaque/.wh..wh..opq", b"", {}), ("opaque/new", b"n", {}), (".wh.whole", b"", {}), (".wh.again", b"", {}),
    ],
    [
        (".wh.dir-to-file", b"", {}), ("added/", None, {**DIRECTORY, "mode": 0o1777}), ("added/link", None, {"type": LINK, "linkname": "../../outside"}),
        ("etc/", None, {**DIRECTORY, "mode": 0o755, "uid": 8}), (".wh.file-to-dir", b"", {}), ("again/", None, {**DIRECTORY, "mode": 0o711}), ("again/y", b"y", {}),
    ],
    [("dir-to-file", b"now a file", {}), ("file-to-dir/", None, DIRECTORY), ("file-to-dir/in", b"in", {})],
]  # fmt: skip


@pytest.fixture
def image(layout):
    layout.image([layout.layer(members) for members in LAYERS], "latest")
    return layout


class TestImage(ReadOnlyContract):
    scheme = "oci"

    def make_filled(self, place):
        layout = Layout(place / "layout")
        members = [(key, content, {}) for key, content in self.CONTENTS.items()]
        layout.image([layout.layer([("gone", b"", {}), *members[:2]]), layout.layer([(".wh.gone", b"", {}), *members[2:]])])
        return ImageStore(layout.place)


def told_by_store(store, prefix="", inodes=None):
    inodes = {} if inodes is None else inodes
    found = {}
    for name, attributes in store.list(prefix):
        key = f"{prefix}{name}/" if attributes.is_directory else prefix + name
        xattrs = {**store.get_xattrs(key), **{f"user.{n}": v.encode() for n, v in store.get_metadata(key).items()}}
        data = None if attributes.is_directory else store.to_bytes(key)
        owner = (attributes.uid, attributes.gid)
        mtime = None if attributes.is_directory else attributes.mtime // 10**9
        found[prefix + name] = (attributes.mode, owner, attributes.rdev, mtime, data, xattrs, attributes.nlink)
        if attributes.is_directory:
            found |= told_by_store(store, key, inodes)
    return found


def told_by_host(place, prefix=""):
    found = {}
    for name in os.listdir(place):
        path = os.path.join(place, name)
        native = os.lstat(path)
        data = None
        if stat.S_ISREG(native.st_mode):
            with open(path, "rb") as file:
                data = file.read()
        elif stat.S_ISLNK(native.st_mode):
            data = os.readlink(path).encode()
        elif not stat.S_ISDIR(native.st_mode):
            data = b""
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        xattrs = {n: v for n, v in xattrs.items() if not n.startswith("user.rootlesscontainers")}
        mtime, nlink = (None, 1) if stat.S_ISDIR(native.st_mode) else (int(native.st_mtime), native.st_nlink)
        rdev = native.st_rdev if stat.S_ISCHR(native.st_mode) or stat.S_ISBLK(native.st_mode) else 0
        found[prefix + name] = (native.st_mode, (native.st_uid, native.st_gid), rdev, mtime, data, xattrs, nlink)
        if stat.S_ISDIR(native.st_mode):
            found |= told_by_host(path, f"{prefix}{name}/")
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unpacking makes devices and changes owners")
def test_an_image_is_what_unpacking_it_gives(image, tmp_path):
    need("umoci")
    subprocess.run(["umoci", "unpack", "--image", f"{image.place}:latest", tmp_path / "bundle"], check=True, capture_output=True)
    with ImageStore(image.place) as store:
        ours, theirs = told_by_store(store), told_by_host(tmp_path / "bundle" / "rootfs")
        # No layer tells of these, and what unpacks makes them as it likes.
        for implied in ("var", "var/deep", "var/deep/down"):
            assert stat.S_ISDIR(ours.pop(implied)[0])
            assert stat.S_ISDIR(theirs.pop(implied)[0])
        assert ours == theirs
        assert stat.S_IMODE(store.stat("").mode) == 0o751


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_images_are_read_where_they_are(image, tmp_path, kind):
    need("skopeo")
    name = "name:tag" if kind == "docker-archive" else "tag"
    command = ["skopeo", "copy", "--insecure-policy", f"oci:{image.place}:latest", f"{kind}:{tmp_path}/saved.tar:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    with ImageStore(image.place) as store:
        expected = told_by_store(store)
    for spec in ("saved.tar", "saved.tar:tag", *(["saved.tar:name:tag"] if kind == "docker-archive" else [])):
        with joinfs.open_store(f"oci:{tmp_path}/{spec}") as store:
            assert told_by_store(store) == expected
    with pytest.raises(UsageError, match="no image other"):
        joinfs.open_store(f"oci:{tmp_path}/saved.tar:other")


def test_an_image_can_be_written_over_in_a_join(image):
    with joinfs.JoinedStore([joinfs.MemoryStore(), ImageStore(image.place)]) as store:
        store.delete("etc/kept")
        store.rename("opaque/", "moved/")
        store.set_data("etc/changed", io.BytesIO(b"newest"))
        assert sorted(name for name, _ in store.list("moved/")) == ["new"]
        assert (store.exists("etc/kept"), store.to_bytes("hard"), store.to_bytes("etc/changed")) == (False, b"kept", b"newest")


def test_an_image_is_chosen_by_tag_and_platform(layout):
    for tag in ("one", "two"):
        layout.image([layout.layer([(tag, b"", {})])], tag)
    assert chosen(layout, "one") == ["one"]
    assert chosen(layout, "two") == ["two"]
    for wrong in (None, "three"):
        with pytest.raises(UsageError, match="one, two"):
            ImageStore(layout.place, wrong)
    layout.manifests.clear()
    both = [layout.image([layout.layer([(name, b"", {})])], None, name) for name in ("s390x", ARCHITECTURE)]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": both}
    layout.manifests[:] = [layout.blob(json.dumps(index).encode(), index["mediaType"])]
    layout.write_index()
    assert chosen(layout, None) == [ARCHITECTURE]


def chosen(layout, tag):
    with ImageStore(layout.place, tag) as store:
        return list(store.keys())


def test_an_image_without_layers_is_empty_and_read_only(layout):
    layout.image([])
    with ImageStore(layout.place) as store:
        assert list(store.list("")) == []
        assert not store.capabilities.writable


def test_what_is_no_image_or_a_hostile_one_is_refused(layout, tmp_path):
    with pytest.raises(StoreUnavailable, match="no image at"):
        joinfs.open_store(f"oci:{tmp_path}/none:tag")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptStore, match="neither"):
        ImageStore(tmp_path / "empty")
    good = layout.image([layout.layer([("f", b"", {})])])
    (tmp_path / "secret").write_text("secret")
    for bad in (
        [{**good, "digest": "sha256:../../../secret"}], [{**good, "digest": "sha256:" + "0" * 64}], [{"mediaType": "x"}], {"no": "list"}, ["text"],
    ):  # fmt: skip
        (layout.place / "index.json").write_text(json.dumps({"manifests": bad}))
        with pytest.raises(CorruptStore, match="layout"):
            ImageStore(layout.place)
    (layout.place / "index.json").write_text("no json")
    with pytest.raises(CorruptStore, match="not JSON"):
        ImageStore(layout.place)
    layout.write_index()
    manifest = layout.place / "blobs" / good["digest"].replace(":", "/")
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(CorruptStore, match="not the one"):
        ImageStore(layout.place)
    (layout.place / "manifest.json").write_text(json.dumps([{"Layers": ["../../secret"], "RepoTags": ["a:b"]}]))
    with pytest.raises(CorruptStore, match="list of layers"):
        ImageStore(layout.place)
