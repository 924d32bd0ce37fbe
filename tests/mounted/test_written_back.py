"""A mount whose first store is sent to later. SEMANTICS.md, Writing back."""

import contextlib
import os
import subprocess

from tests.mounted.conftest import TIMEOUT, Server, make_directory


@contextlib.contextmanager
def served(user, driver, scratch, *stores):
    """A mount that may be killed."""
    mountpoint, log = scratch / "mnt", scratch / "log"
    make_directory(user, mountpoint)
    interpreter, environment = user.python()
    shared = ["-o", "allow_other"] if user.uid is not None else []
    command = [interpreter, "-m", "joinfs", "mount", "-f", "--driver", driver, *shared, *stores, str(mountpoint)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, **user.options())
    server = Server(process, mountpoint, log)
    try:
        server.wait_until_mounted()
        yield server
    finally:
        subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True, timeout=TIMEOUT)
        process.kill()
        process.wait(TIMEOUT)


def found(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_what_was_written_outlives_a_kill_and_is_there_after_a_flush(user, driver, scratch, mount):
    there = scratch / "there"
    make_directory(user, there)
    url = f"dir:{there}?writeback={scratch}/waiting"
    written = {f"d/f{number}": os.urandom(number * 1000) for number in range(30)} | {"large": os.urandom(3_000_000)}
    with served(user, driver, scratch, url) as server:
        (server.mountpoint / "d").mkdir()
        for name, content in written.items():
            (server.mountpoint / f"{name}.tmp").write_bytes(content)
            (server.mountpoint / f"{name}.tmp").rename(server.mountpoint / name)
        (server.mountpoint / "gone").write_bytes(b"gone")
        (server.mountpoint / "gone").unlink()
        assert found(server.mountpoint) == written
        server.process.kill()
        server.process.wait(TIMEOUT)
    with mount(url, at="again") as mnt:
        assert found(mnt) == written
        (mnt / "d" / "f1").write_bytes(b"changed")
        flushed = user.joinfs("flush", mnt)
        assert (flushed.returncode, flushed.stderr) == (0, "")
        assert found(there) == {**written, "d/f1": b"changed"}
        (mnt / "last").write_bytes(b"last")
    assert found(there) == {**written, "d/f1": b"changed", "last": b"last"}
    checked = user.joinfs("check", url)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_a_flush_tells_what_cannot_be_sent(user, driver, scratch, mount):
    there = scratch / "there"
    make_directory(user, there)
    url = f"dir:{there}?writeback={scratch}/waiting"
    with mount(url) as mnt:
        (mnt / "a").write_bytes(b"content")
        assert user.joinfs("flush", mnt).returncode == 0
        (mnt / "a").write_bytes(b"another")
        (there / "a").unlink()
        (there / "a").mkdir()  # by others, whose it is now
        flushed = user.joinfs("flush", mnt)
        assert flushed.returncode == 1
        assert f"a file is not sent to dir:{there} yet; 'a': " in flushed.stderr
        assert (mnt / "a").read_bytes() == b"another"
        assert "1 file to be sent" in user.joinfs("status", mnt).stdout
        assert f'joinfs_waiting_files{{layer="0",name="{url}"}} 1' in (mnt / ".joinfs" / "stats").read_text().splitlines()
        (there / "a").rmdir()
        assert user.joinfs("flush", mnt).returncode == 0
    assert (there / "a").read_bytes() == b"another"
