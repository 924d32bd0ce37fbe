"""Mounting from Python: ``with joinfs.mount(store, mountpoint)``. SEMANTICS.md, Changes by others."""

import io
import os
import subprocess
import sys

import pytest

import joinfs
from joinfs.errors import MountError, UsageError


def test_a_store_is_mounted_for_a_block(mnt):
    lower = joinfs.MemoryStore()
    with joinfs.JoinedStore([joinfs.MemoryStore(), lower]) as store:
        lower.set("d/a", (io.BytesIO(b"lower"), {"k": "v"}))
        with joinfs.mount(store, mnt) as place:
            assert place == str(mnt)
            assert (mnt / "d" / "a").read_bytes() == b"lower"
            assert os.getxattr(mnt / "d" / "a", "user.k") == b"v"
            (mnt / "d" / "new").write_bytes(b"from the mount")
            (mnt / "d" / "a").unlink()
            assert store.to_bytes("d/new") == b"from the mount"
            assert not store.exists("d/a")
        assert os.listdir(mnt) == []
        assert store.is_connected()
    assert lower.user_tag == ""


def test_any_store_can_be_mounted_and_is_connected_if_need_be(mnt, tmp_path):
    store = joinfs.SQLiteStore(tmp_path / "x.db")
    with joinfs.mount(store, mnt, attr_timeout=0, entry_timeout=0):
        (mnt / "f").write_text("text")
        store.set("p", (io.BytesIO(b"from Python"), {}))
        assert (mnt / "p").read_bytes() == b"from Python"
    assert not store.is_connected()
    with store:
        assert store.to_bytes("f") == b"text"


def test_a_mount_in_use_stays_and_says_so(mnt):
    store = joinfs.MemoryStore()
    block = joinfs.mount(store, mnt)
    with block:
        (mnt / "f").touch()
        file = (mnt / "f").open()
        subprocess.run(["umount", mnt], check=False, capture_output=True, timeout=20)
        assert os.path.ismount(mnt)
        file.close()


def test_processes_can_be_started_in_the_mount(mnt):
    """With files of the mount open, and a program in it. SEMANTICS.md, Mounting from Python."""
    before = subprocess._USE_VFORK
    with joinfs.mount(joinfs.MemoryStore(), mnt):
        (mnt / "program").write_text("#!/bin/sh\npwd\n")
        (mnt / "program").chmod(0o755)
        with (mnt / "program").open():
            done = subprocess.run([mnt / "program"], cwd=mnt, capture_output=True, text=True, check=True, timeout=30)
        assert done.stdout == f"{mnt}\n"
    assert subprocess._USE_VFORK == before


def test_a_broken_pipe_is_an_error_after_a_mount_as_before(mnt):
    """libfuse gives the signal its default action when it ends, which ends the process."""
    program = (
        "import os, sys, joinfs\n"
        "with joinfs.mount(joinfs.MemoryStore(), sys.argv[1]):\n"
        "    pass\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "try:\n"
        "    os.write(writer, b'x')\n"
        "except BrokenPipeError:\n"
        "    print('told')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, mnt], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "told\n")


def test_what_is_wrong_is_told_before_anything_is_mounted(mnt, tmp_path):
    store = joinfs.MemoryStore()
    for place, options in ((tmp_path / "none", {}), (mnt, {"alow_other": True}), (mnt, {"driver": "none"})):
        with pytest.raises(UsageError), joinfs.mount(store, place, **options):
            pass
    with pytest.raises(UsageError), joinfs.mount(joinfs.DirectoryStore(tmp_path), mnt):
        pass
    assert not os.path.ismount(mnt)
    assert issubclass(MountError, joinfs.JoinfsError)


def test_importing_joinfs_needs_no_libfuse():
    program = "import sys; sys.modules['fuse'] = None; import joinfs, joinfs.cli; joinfs.open_store('memory:'); print('fine')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "fine\n", done.stderr


def test_options_are_those_of_the_command_and_false_is_their_contrary(mnt):
    def mounted_with(**options):
        with joinfs.mount(joinfs.MemoryStore(), mnt, **options), open("/proc/self/mounts") as mounts:
            return next(line.split()[3].split(",") for line in mounts if line.split()[1] == str(mnt))

    assert "noexec" in mounted_with(exec=False)
    assert "noexec" not in mounted_with(exec=True, ro=False)
    assert "ro" in mounted_with(ro=True)
    for options in ({"frobnicate": False}, {"passtrough": False}, {"lower_ttl": False}):
        with pytest.raises(UsageError):
            mounted_with(**options)
