"""Two mounts whose first store is the same schema of a server. SEMANTICS.md, Tables of a server; What others change."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.mounted.conftest import CHECKOUT, TIMEOUT
from tests.stores.postgres_servers import DATABASE, USER, Server

LETTERS = {b"a": 10, b"b": 70_000, b"c": 300_000, b"d": 1_500_000}


@pytest.fixture
def driver():
    """The one that tells the kernel of others' changes."""
    return "devfuse"


@pytest.fixture
def pair(mount, postgres):
    """The mountpoints."""
    url = f"postgres:{postgres.url()}?schema={postgres.new_schema()}"
    with mount(url, at="one") as one, mount(url, at="other") as other:
        yield one, other


def soon(holds, seconds=1.0):
    """Whether something holds within a second; answers when it does."""
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


def test_what_one_has_closed_the_other_opens(pair):
    one, other = pair
    for number in range(40):
        here, there = (one, other) if number % 2 else (other, one)
        content = b"%d " % number * (1 + number * 3000)
        (here / "f").write_bytes(content)
        if number == 0:
            assert soon((there / "f").exists)
        assert (there / "f").read_bytes() == content
        with (there / "f").open("ab") as file:
            file.write(b"more")
        assert (here / "f").read_bytes() == content + b"more"


def test_what_one_does_the_other_sees_within_a_second(pair):
    one, other = pair
    (one / "d").mkdir()
    (one / "d" / "a").write_text("a")
    assert soon((other / "d" / "a").exists)
    assert sorted(os.listdir(other / "d")) == ["a"]
    (one / "d" / "a").chmod(0o640)
    assert soon(lambda: (other / "d" / "a").stat().st_mode & 0o777 == 0o640)
    (one / "d" / "a").write_text("longer")
    assert soon(lambda: (other / "d" / "a").stat().st_size == 6)
    os.setxattr(one / "d" / "a", "user.n", b"1")
    assert soon(lambda: os.listxattr(other / "d" / "a") == ["user.n"])
    os.link(one / "d" / "a", one / "l")
    assert soon(lambda: (other / "l").exists() and (other / "l").stat().st_nlink == 2)
    (one / "d").rename(one / "e")
    assert soon(lambda: not (other / "d").exists() and (other / "e" / "a").read_text() == "longer")
    (one / "new").write_text("new")
    (one / "new").replace(one / "e" / "a")
    assert soon(lambda: (other / "e" / "a").read_text() == "new")
    (one / "e" / "a").unlink()
    (one / "l").unlink()
    (one / "e").rmdir()
    assert soon(lambda: os.listdir(other) == [])


def test_of_two_makers_one_is_told(pair):
    for number in range(20):
        made, barrier = [], threading.Barrier(2)

        def make(mountpoint, number=number, made=made, barrier=barrier):
            barrier.wait(20)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(mountpoint / f"x{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made.append(mountpoint)

        threads = [threading.Thread(target=make, args=(mountpoint,)) for mountpoint in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(made) == 1


def test_of_two_writers_of_one_file_under_load_each_leaves_it_whole(pair):
    ended = threading.Event()
    (pair[0] / "f").write_bytes(b"a" * 10)
    assert soon((pair[1] / "f").exists)

    def write(mountpoint, letters):
        for step in range(12):
            letter = letters[step % 2]
            with contextlib.suppress(OSError), (mountpoint / "f").open("r+b") as file:  # ESTALE: the other was first
                content = letter * LETTERS[letter]
                file.truncate(0)
                file.write(content)

    def load(mountpoint, number):
        step = 0
        while not ended.is_set():
            (mountpoint / f"load{number}-{step % 20}").write_bytes(b"x" * 1000)
            step += 1

    writers = [threading.Thread(target=write, args=arguments) for arguments in zip(pair, ((b"a", b"c"), (b"b", b"d")), strict=True)]
    loads = [threading.Thread(target=load, args=arguments) for arguments in zip(pair, (0, 1), strict=True)]
    for thread in [*writers, *loads]:
        thread.start()
    for writer in writers:
        writer.join(100)
    ended.set()
    for thread in loads:
        thread.join(60)
    one, other = (whole(mountpoint / "f") for mountpoint in pair)
    assert one == other


def whole(path):
    """The letter of a file that is one writer's, and whole."""
    content = path.read_bytes()
    letter = content[:1]
    assert content == letter * LETTERS[letter]
    return letter


def test_mounts_outlive_the_server(mount, postgres):
    """It is killed with kill -9 under load, and what was closed without an error is there afterwards, in both."""
    server = Server()
    closed, ended = {}, threading.Event()
    try:
        url = f"postgres:{server.url()}?schema=shared"
        with mount(url, at="one") as one, mount(url, at="other") as other:

            def write(mountpoint, number):
                for step in range(100_000):
                    if ended.is_set():
                        return
                    path = mountpoint / f"{number}-{step}"
                    try:
                        path.write_bytes(b"%d" % step * 1000)
                        closed[path.name] = b"%d" % step * 1000
                    except OSError:
                        time.sleep(0.05)

            writers = [threading.Thread(target=write, args=(mountpoint, number)) for number, mountpoint in enumerate((one, other))]
            for writer in writers:
                writer.start()
            time.sleep(1)
            server.kill()
            began = time.monotonic()
            with pytest.raises(OSError):
                (one / "absent").write_bytes(b"x")
            assert time.monotonic() - began < 40
            before = len(closed)
            server.start()
            assert soon(lambda: len(closed) > before + 10, 40)
            ended.set()
            for writer in writers:
                writer.join(60)
            for name, content in closed.items():
                for mountpoint in (one, other):
                    assert (mountpoint / name).read_bytes() == content, name
    finally:
        server.stop()


class Machine:
    """A network namespace with a wire to ours, in which joinfs mounts what can be seen here."""

    def __init__(self, number, scratch):
        self.name, self.wire = f"joinfs-{os.getpid()}-{number}", f"jfs{os.getpid() % 100_000}n{number}"
        self.here, self.there = f"10.77.{number}.1", f"10.77.{number}.2"
        self.mountpoint = scratch / self.name
        self.mountpoint.mkdir()
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.wire, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"{self.here}/24", "dev", self.wire)
        run("ip", "link", "set", self.wire, "up")
        for command in ("addr", "add", f"{self.there}/24", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up"):
            run("ip", "netns", "exec", self.name, "ip", *command)

    def mount(self, port):
        url = f"postgres://{USER}@{self.here}:{port}/{DATABASE}?schema=machines"
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "joinfs", "mount", "-f", url, str(self.mountpoint)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL)
        assert soon(lambda: os.path.ismount(self.mountpoint), 20)

    def close(self):
        if os.path.ismount(self.mountpoint):
            run("umount", "-l", self.mountpoint)
            self.process.wait(TIMEOUT)
        run("ip", "netns", "del", self.name)


def run(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=TIMEOUT)


def test_two_machines_share_a_server_that_dies_and_comes_back(user, need, scratch, postgres):
    need("ip", "nsenter")
    if user.uid is not None:
        pytest.skip("namespaces of networks are root's")
    server = Server("*")
    server.let_in("10.77.0.0/16")
    machines = []
    try:
        for number in (1, 2):
            machines.append(Machine(number, scratch))
            machines[-1].mount(server.port)
        one, other = (machine.mountpoint for machine in machines)
        for number in range(10):
            content = b"%d" % number * (1 + number * 20_000)
            (one / "f").write_bytes(content)
            assert soon((other / "f").exists)
            assert (other / "f").read_bytes() == content
        server.kill()
        with pytest.raises(OSError):
            (one / "absent").write_bytes(b"x")
        server.start()
        assert soon(lambda: write_if_it_can_be(other / "after"), 40)
        assert soon((one / "after").exists, 10)
        assert (one / "f").read_bytes() == content
    finally:
        for machine in machines:
            machine.close()
        server.stop()


def write_if_it_can_be(path):
    with contextlib.suppress(OSError):
        return path.write_bytes(b"x") == 1
    return False
