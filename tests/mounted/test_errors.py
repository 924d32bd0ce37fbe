"""What a tool is told when something goes wrong. SEMANTICS.md, Errors; Space; A read-only first store."""

import contextlib
import errno
import os
import shutil
import subprocess
import time
import zipfile

import pytest

MEBIBYTE = 1 << 20
PATIENCE = 30


@contextlib.contextmanager
def told(number):
    with pytest.raises(OSError) as error:
        yield
    assert error.value.errno == number, error.value


@pytest.fixture
def small(scratch, user):
    """A medium of two mebibytes."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs")
    place = scratch / "small"
    place.mkdir()
    owner = 0 if user.uid is None else user.uid
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=2m,uid={owner},gid={owner}", "joinfs-test", place], check=True)
    return place


@pytest.fixture(params=["dir", "sqlite"])
def full_upper(request, small, user):
    if request.param == "sqlite":
        return f"sqlite:{small}/upper.db"
    (small / "upper").mkdir()
    os.chown(small / "upper", user.uid or 0, user.uid or 0)
    return f"dir:{small}/upper"


@pytest.fixture
def lower(scratch):
    place = scratch / "lower"
    place.mkdir()
    (place / "large").write_bytes(b"x" * 4 * MEBIBYTE)
    (place / "little").write_bytes(b"little")
    return place


def write_out(path, data):
    """Write until the file is safe; any of the three calls may be the one that tells."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_medium_is_told_and_room_that_is_made_is_used(mount, full_upper, lower):
    with mount(full_upper, lower) as mnt:
        write_out(mnt / "kept", b"k" * 1000)
        with told(errno.ENOSPC), open(mnt / "too large", "wb", buffering=0) as file:
            file.writelines(b"x" * MEBIBYTE for _ in range(4))
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(mnt / "too large")
        assert (mnt / "kept").read_bytes() == b"k" * 1000
        write_out(mnt / "after", b"a" * 1000)
    with mount(full_upper, lower) as mnt:
        assert sorted(os.listdir(mnt)) == ["after", "kept", "large", "little"]


def test_copying_up_what_has_no_room_changes_nothing(mount, full_upper, lower):
    with mount(full_upper, lower, options=["-o", "nometacopy"]) as mnt:
        with told(errno.ENOSPC):
            os.chmod(mnt / "large", 0o600)
        assert (mnt / "large").read_bytes() == b"x" * 4 * MEBIBYTE
        assert (mnt / "large").stat().st_mode & 0o777 == (lower / "large").stat().st_mode & 0o777
        assert os.getxattr(mnt / "large", "user.joinfs.store").decode().endswith("lower")


def test_a_staged_file_that_has_no_room_is_kept_until_there_is(mount, small, lower):
    """The same descriptor goes on to work. SEMANTICS.md, Staged writes."""
    filler = small / "filler"
    with mount(f"sqlite:{small}/upper.db", lower) as mnt:
        write_out(mnt / "first", b"")
        filler.write_bytes(b"f" * MEBIBYTE)
        descriptor = os.open(mnt / "file", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, b"x" * MEBIBYTE)
            with told(errno.ENOSPC):
                os.fsync(descriptor)
            assert os.pread(descriptor, 10, MEBIBYTE - 5) == b"xxxxx"
            filler.unlink()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    with mount(f"sqlite:{small}/upper.db", lower) as mnt:
        assert (mnt / "file").read_bytes() == b"x" * MEBIBYTE


def test_room_is_that_of_the_first_store(mount, full_upper, lower):
    with mount(full_upper, lower) as mnt:
        room = os.statvfs(mnt)
        assert 0 < room.f_bavail * room.f_frsize <= 2 * MEBIBYTE
        assert room.f_namemax == 255


def test_a_read_only_first_store_refuses_every_change(mount, lower):
    with mount(f"dir:{lower}?ro", "memory:") as mnt:
        for change in (
            lambda: (mnt / "new").write_bytes(b""),
            lambda: os.truncate(mnt / "little", 0),
            lambda: os.unlink(mnt / "little"),
            lambda: os.mkdir(mnt / "d"),
            lambda: os.rename(mnt / "little", mnt / "l"),
            lambda: os.link(mnt / "little", mnt / "l"),
            lambda: os.symlink("x", mnt / "l"),
            lambda: os.chmod(mnt / "little", 0o600),
            lambda: os.utime(mnt / "little"),
            lambda: os.setxattr(mnt / "little", "user.x", b""),
        ):
            with told(errno.EROFS):
                change()
        assert (mnt / "little").read_bytes() == b"little"


def test_a_medium_that_becomes_read_only_refuses_until_it_is_writable_again(mount, small, user, lower):
    (small / "upper").mkdir()
    os.chown(small / "upper", user.uid or 0, user.uid or 0)
    with mount(f"dir:{small}/upper", lower) as mnt:
        write_out(mnt / "kept", b"kept")
        # A file that has been closed is closed a moment later for the server, too.
        until(lambda: subprocess.run(["mount", "-o", "remount,ro", small], capture_output=True, check=False).returncode == 0)
        for change in (
            lambda: (mnt / "new").write_bytes(b""),
            lambda: (mnt / "kept").write_bytes(b"changed"),
            lambda: (mnt / "little").write_bytes(b"copied up"),
            lambda: os.unlink(mnt / "little"),
            lambda: os.rename(mnt / "kept", mnt / "renamed"),
            lambda: os.chmod(mnt / "little", 0o600),
        ):
            with told(errno.EROFS):
                change()
        assert sorted(os.listdir(mnt)) == ["kept", "large", "little"]
        assert [(mnt / name).read_bytes() for name in ("kept", "little")] == [b"kept", b"little"]
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        write_out(mnt / "new", b"new")
        (mnt / "little").write_bytes(b"copied up")
    assert sorted(os.listdir(small / "upper")) == ["kept", "little", "new"]


def test_a_first_store_that_may_not_be_written_to_any_more_refuses_until_it_may(mount, scratch, user, lower):
    if user.uid is None:
        pytest.skip("root may")
    (scratch / "upper").mkdir()  # root's
    (scratch / "upper").chmod(0o777)
    with mount(f"dir:{scratch}/upper", lower) as mnt:
        (scratch / "upper").chmod(0o755)
        for change in (
            lambda: user.run(["touch", mnt / "new"]),
            lambda: user.run(["rm", mnt / "little"]),
            lambda: user.run(["mv", mnt / "little", mnt / "renamed"]),
        ):
            with pytest.raises(subprocess.CalledProcessError) as refused:
                change()
            assert "Permission denied" in refused.value.stderr
        assert sorted(os.listdir(mnt)) == ["large", "little"]
        (scratch / "upper").chmod(0o777)
        until(lambda: user.run(["mv", mnt / "little", mnt / "renamed"], check=False).returncode == 0)
        assert (mnt / "renamed").read_bytes() == b"little"


def test_what_a_lower_store_loses_is_gone_and_the_rest_goes_on(mount, full_upper, scratch, lower):
    with mount(full_upper, lower) as mnt:
        write_out(mnt / "new", b"new")
        with open(mnt / "little", "rb") as file:
            assert file.read() == b"little"
            lower.rename(scratch / "away")
            shutil.rmtree(scratch / "away")
            file.seek(0)
            assert file.read() == b"little"
        until(lambda: os.listdir(mnt) == ["new"] and not (mnt / "little").exists())  # within a second, of what is not watched
        write_out(mnt / "little", b"ours")
        assert (mnt / "little").read_bytes() == b"ours"


def test_a_damaged_member_is_told_as_damage(mount, scratch):
    with zipfile.ZipFile(scratch / "a.zip", "w") as archive:
        archive.writestr("whole", b"whole" * 1000)
        archive.writestr("damaged", b"damaged" * 1000)
    raw = (scratch / "a.zip").read_bytes()
    (scratch / "a.zip").write_bytes(raw.replace(b"damageddamaged", b"damageddamagee", 1))
    (scratch / "a.zip").chmod(0o644)
    with mount("memory:", f"zip:{scratch}/a.zip") as mnt:
        assert (mnt / "whole").read_bytes() == b"whole" * 1000
        with told(errno.EUCLEAN):
            (mnt / "damaged").read_bytes()
