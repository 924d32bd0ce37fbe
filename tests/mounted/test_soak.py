"""All of it at once, for long: what a mount uses does not grow. SEMANTICS.md, Threads; What others change.

For as long as JOINFS_SOAK says, in seconds; twenty minutes have the shape of a day.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounted.conftest import TIMEOUT, Server, make_directory

SECONDS = float(os.environ.get("JOINFS_SOAK", "12"))

# What users do, over and over, each worker in a directory of its own; it ends when its time is over, and says how often.
WORKER = """
import mmap, os, random, shutil, sqlite3, subprocess, sys, time
place, until, kind = sys.argv[1], time.monotonic() + float(sys.argv[2]), sys.argv[3]
chance, rounds = random.Random(kind), 0

def files():
    os.makedirs(f"{place}/d/e", exist_ok=True)
    for n in range(40):
        with open(f"{place}/d/f{n}", "wb") as file:
            file.write(os.urandom(chance.choice([0, 100, 5000, 300_000])))
        os.setxattr(f"{place}/d/f{n}", "user.n", b"%d" % n)
    for n in range(0, 40, 2):
        os.rename(f"{place}/d/f{n}", f"{place}/d/e/f{n}")
        os.link(f"{place}/d/e/f{n}", f"{place}/d/l{n}")
        os.chmod(f"{place}/d/e/f{n}", 0o600)
    assert len(os.listdir(f"{place}/d")) == 41
    os.rename(f"{place}/d", f"{place}/g")
    shutil.rmtree(f"{place}/g")

def in_place():
    with open(f"{place}/log", "ab+") as log:
        for n in range(50):
            log.write(b"%d" % n * 1000)
        log.flush()
        os.fsync(log.fileno())
        if os.fstat(log.fileno()).st_size > 3_000_000:
            log.truncate(0)
    with open(f"{place}/mapped", "wb+") as file:
        file.truncate(200_000)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[1000:2000] = b"x" * 1000
    assert open(f"{place}/mapped", "rb").read()[999:1001] == b"\\0x"

def database():
    with sqlite3.connect(f"{place}/db") as db:
        db.execute("create table if not exists t (n)")
        db.executemany("insert into t values (?)", [(n,) for n in range(200)])
    db.close()
    if rounds % 20 == 19:
        os.unlink(f"{place}/db")

def lowers():
    "The lower stores: read, copied up, deleted; every name may be gone."
    top = os.path.dirname(place) + "/tree"
    for directory, _, names in os.walk(top):
        for name in names:
            path = f"{directory}/{name}"
            try:
                with open(path, "rb") as file:
                    file.read()
                if chance.random() < 0.01:
                    os.utime(path)
                if chance.random() < 0.005:
                    os.unlink(path)
            except (FileNotFoundError, OSError) as error:
                if getattr(error, "errno", 2) not in (2, 116):
                    raise

def kept_open():
    "Deleted and replaced while open."
    held = []
    for n in range(20):
        file = open(f"{place}/o{n}", "wb+")
        file.write(b"kept")
        file.flush()
        os.unlink(f"{place}/o{n}")
        held.append(file)
    for file in held:
        file.seek(0)
        assert file.read() == b"kept"
        file.close()

os.makedirs(place, exist_ok=True)
while time.monotonic() < until:
    globals()[kind]()
    rounds += 1
print(rounds)
"""
KINDS = ["files", "in_place", "database", "lowers", "kept_open", "files"]


class Use:
    """What a process has: descriptors, threads, and memory in kibibytes."""

    def __init__(self, pid):
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        self.threads = len(os.listdir(f"/proc/{pid}/task"))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.memory = int(status["RssAnon"].split()[0])


def fill(lower, count):
    for number in range(count):
        path = lower / "tree" / f"d{number % 20}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number % 3000))


def forget_all(server):
    """Have the kernel forget what nobody uses, and its server be done with that."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
    os.listdir(server.mountpoint)


@pytest.mark.timeout(3 * SECONDS + 120)
@pytest.mark.parametrize("driver", ["devfuse", "fusepy"])
@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_what_a_mount_uses_does_not_grow(user, driver, upper, scratch):
    lower, mountpoint, log = scratch / "lower", scratch / "mnt", scratch / "log"
    make_directory(user, mountpoint)
    fill(lower, 2000)
    interpreter, environment = user.python()
    command = [interpreter, "-m", "joinfs", "mount", "-f", "--driver", driver, upper, str(lower), str(mountpoint)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
    server = Server(process, mountpoint, log)
    try:
        server.wait_until_mounted()
        work(mountpoint, lower, SECONDS / 3)
        forget_all(server)
        before = Use(process.pid)
        work(mountpoint, lower, SECONDS * 2 / 3)
        forget_all(server)
        # Layers keep directories open that they were in: there are twenty, and those of the workers.
        wait_until(lambda: Use(process.pid).descriptors <= before.descriptors + 60)
        after = Use(process.pid)
        # Threads start when they are first needed: the three that tell the kernel later, and one for each who waits at once.
        assert after.threads <= before.threads + 3 + len(KINDS)
        assert after.memory <= before.memory * 1.3 + 8_000, (before.memory, after.memory)
        assert server.stop() == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True, timeout=TIMEOUT)
        process.kill()
        process.wait(TIMEOUT)
    checked = user.joinfs("check", upper, lower)
    assert (checked.returncode, checked.stdout) == (0, "")


def work(mountpoint, lower, seconds):
    """Have all kinds of work done at once, while others change the lower directory."""
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, mountpoint / f"{kind}{number}", str(seconds), kind], stdout=subprocess.PIPE)
        for number, kind in enumerate(KINDS)
    ]
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        turn += 1
        (lower / "tree" / "d1" / f"new {turn % 50}").write_bytes(b"n" * turn)
        (lower / "tree" / "d2" / f"f{turn % 20 * 100 + 2}").unlink(missing_ok=True)
        time.sleep(0.005)  # others do not do it all the time
    for worker in workers:
        rounds, _ = worker.communicate(timeout=TIMEOUT)
        assert (worker.returncode, int(rounds) > 0) == (0, True)


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
