"""Extended attributes through the kernel. SEMANTICS.md, Metadata; Where a path comes from; Other attributes."""

import errno
import os

import pytest

import joinfs
from tests.mounted.conftest import NOBODY


@pytest.fixture
def lower(scratch, user):
    place = scratch / "lower"
    (place / "d").mkdir(parents=True)
    (place / "d" / "f").write_bytes(b"lower f")
    (place / "link").symlink_to("d/f")
    os.setxattr(place / "d" / "f", "user.colour", b"red")
    for path in [place, *place.rglob("*")]:
        if user.uid is not None:
            os.chown(path, user.uid, user.uid, follow_symlinks=False)
    return place


@pytest.fixture
def mnt(mount, upper, lower):
    with mount(upper, lower) as mountpoint:
        yield mountpoint


def test_metadata_are_user_attributes(mount, upper, lower, scratch):
    with mount(upper, lower) as mnt:
        path = mnt / "d" / "f"
        assert os.getxattr(path, "user.colour") == b"red"
        os.setxattr(path, "user.bytes", b"\xff\x00\x80")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(mnt / "d", "user.dir", "é".encode())
        assert sorted(os.listxattr(path)) == ["user.bytes", "user.colour", "user.empty"]
        os.removexattr(path, "user.colour")
    store = joinfs.JoinedStore([joinfs.open_store(upper, connect=False), joinfs.open_store(lower, connect=False)])
    with store:
        assert store.get_metadata("d/f") == {"bytes": "\udcff\0\udc80", "empty": ""}
        assert store.get_metadata("d/") == {"dir": "é"}
    assert os.listxattr(lower / "d" / "f") == ["user.colour"]


def test_flags_and_missing_names(mnt):
    path = mnt / "d" / "f"
    for call, number in (
        (lambda: os.setxattr(path, "user.colour", b"", os.XATTR_CREATE), errno.EEXIST),
        (lambda: os.setxattr(path, "user.none", b"", os.XATTR_REPLACE), errno.ENODATA),
        (lambda: os.getxattr(path, "user.none"), errno.ENODATA),
        (lambda: os.removexattr(path, "user.none"), errno.ENODATA),
    ):
        with pytest.raises(OSError) as told:
            call()
        assert told.value.errno == number
    os.setxattr(path, "user.colour", b"blue", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.colour") == b"blue"


def test_where_a_path_comes_from(mnt, lower, upper):
    path = mnt / "d" / "f"
    assert os.getxattr(path, "user.joinfs.store").decode() == str(lower) or os.getxattr(
        path, "user.joinfs.store"
    ).decode() == f"dir:{lower}"
    assert os.getxattr(path, "user.joinfs.key") == b"d/f"
    os.setxattr(path, "user.k", b"")
    assert os.getxattr(path, "user.joinfs.store").decode() == upper
    assert os.getxattr(path, "user.joinfs.layers").decode().split("\n") == [upper, f"dir:{lower}"]
    assert not any("joinfs" in name for name in os.listxattr(path))
    for call in (
        lambda: os.setxattr(path, "user.joinfs.store", b"x"),
        lambda: os.setxattr(path, "user.joinfs.other", b"x"),
        lambda: os.removexattr(path, "user.joinfs.key"),
    ):
        with pytest.raises(PermissionError):
            call()


def test_trusted_and_security_attributes_are_kept(mount, upper, lower, user):
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root: trusted attributes are root's")
    with mount(upper, lower) as mnt:
        os.setxattr(mnt / "d" / "f", "trusted.x", b"\0\1")
        os.setxattr(mnt / "d" / "f", "security.y", b"y")
    with mount(upper, lower) as mnt:
        assert os.getxattr(mnt / "d" / "f", "trusted.x") == b"\0\1"
        assert os.getxattr(mnt / "d" / "f", "security.y") == b"y"
        os.removexattr(mnt / "d" / "f", "trusted.x")
        assert sorted(os.listxattr(mnt / "d" / "f")) == ["security.y", "user.colour"]


ACL = bytes.fromhex("02000000 01000600ffffffff 02000400feff0000 04000000ffffffff 10000400ffffffff 20000000ffffffff")  # user:65534:r


def test_acls_that_nothing_would_enforce_are_refused(mnt, driver, upper):
    if driver == "devfuse" and upper.startswith("dir:"):
        pytest.skip("there they are enforced")
    with pytest.raises(OSError) as told:
        os.setxattr(mnt / "d" / "f", "system.posix_acl_access", ACL)
    assert told.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("driver", ["devfuse"], indirect=True)
def test_acls_are_enforced_inherited_and_kept(mount, scratch, lower, user):
    """Where the first store is a directory. SEMANTICS.md, Other attributes."""
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    upper = scratch / "with-acls"
    upper.mkdir()
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "capture_output": True, "check": False, "text": False}
    with mount(upper, lower) as mnt:
        (mnt / "d" / "f").chmod(0o600)
        assert user.run(["cat", mnt / "d" / "f"], **nobody).returncode != 0
        os.setxattr(mnt / "d" / "f", "system.posix_acl_access", ACL)
        assert (mnt / "d" / "f").stat().st_mode & 0o777 == 0o640, "the mask is the group's bits"
        assert user.run(["cat", mnt / "d" / "f"], **nobody).stdout == b"lower f"
        os.setxattr(mnt / "d", "system.posix_acl_default", ACL)
        (mnt / "d" / "new").write_bytes(b"new")
        (mnt / "d" / "sub").mkdir()
        assert user.run(["cat", mnt / "d" / "new"], **nobody).stdout == b"new"
        assert os.getxattr(mnt / "d" / "sub", "system.posix_acl_default") == ACL
        (mnt / "d" / "new").chmod(0o600)
        assert user.run(["cat", mnt / "d" / "new"], **nobody).returncode != 0, "chmod cuts the mask"
    with mount(upper, lower) as mnt:
        assert os.getxattr(mnt / "d" / "f", "system.posix_acl_access") == ACL
        os.removexattr(mnt / "d" / "f", "system.posix_acl_access")
        assert os.listxattr(mnt / "d" / "f") == ["user.colour"]
