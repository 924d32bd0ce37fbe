"""Times a bucket that is mounted with joinfs beside rclone and s3fs, on a SeaweedFS of this machine.

    make bench-buckets
    make bench-buckets BENCH_ARGS='--delay 0.02 --files 1000 --keys 10000 --size 1024 --systems joinfs,rclone'

Each row is on a mount of its own where that is said to be cold. All get the same requests at the same server, the delay
(of a request and its answer together, in seconds) is made by ``delayed.py``. rclone sends what is written later, in the
background, and so does joinfs with ``?writeback=`` (``writeback``, and ``cached`` with ``?cache=`` as well): ``written and sent`` goes on
until the server has it; to the others it is the same as ``written``.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stores.object_servers import ACCESS, SECRET, SeaweedFS, free_ports

TIMEOUT = 600
PATIENCE = 30
READERS = 16
MIB = 1 << 20
# rclone fails with a bundle of certificates in the environment.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"} | {
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


def joinfs(url: str, bucket: str, prefix: str, at: Path, _: Path) -> list[str]:
    """The command that mounts a prefix of a bucket."""
    return [sys.executable, "-m", "joinfs", "mount", "-f", f"s3://{bucket}/{prefix}?endpoint={url}", str(at)]


def joinfs_later(url: str, bucket: str, prefix: str, at: Path, scratch: Path) -> list[str]:
    """The same, with what is written sent later, as rclone does it."""
    command = joinfs(url, bucket, prefix, at, scratch)
    return [*command[:-2], f"{command[-2]}&writeback={scratch}/waiting", command[-1]]


def joinfs_cached(url: str, bucket: str, prefix: str, at: Path, scratch: Path) -> list[str]:
    """The same, with what was read kept on disk; the cache is new."""
    command = joinfs_later(url, bucket, prefix, at, scratch)
    return [*command[:-2], f"{command[-2]}&cache={tempfile.mkdtemp(dir=scratch)}", command[-1]]


def rclone(url: str, bucket: str, prefix: str, at: Path, scratch: Path) -> list[str]:
    """The same; its cache is new."""
    remote = f":s3,provider=Other,env_auth=true,endpoint='{url}':{bucket}/{prefix}"
    return ["rclone", "mount", remote, str(at), "--vfs-cache-mode", "writes", "--cache-dir", tempfile.mkdtemp(dir=scratch)]


def s3fs(url: str, bucket: str, prefix: str, at: Path, scratch: Path) -> list[str]:
    """The same."""
    passwords = scratch / "passwords"
    passwords.write_text(f"{ACCESS}:{SECRET}\n")
    passwords.chmod(0o600)
    return ["s3fs", f"{bucket}:/{prefix}", str(at), "-f", "-o", f"passwd_file={passwords},url={url},use_path_request_style"]


SYSTEMS = {"joinfs": joinfs, "writeback": joinfs_later, "cached": joinfs_cached, "rclone": rclone, "s3fs": s3fs}


class Bench:
    """One system, on a prefix of its own.

    Args:
        name: Which.
        server: The server.
        url: Where it is reached.
        place: An empty directory.
        given: The arguments of the command line.
    """

    def __init__(self, name: str, server: SeaweedFS, url: str, place: Path, given: argparse.Namespace) -> None:
        self.name, self.server, self.url, self.given = name, server, url, given
        self.prefix = f"bench-{name}"
        self.at, self.scratch = place / "mnt", place / "scratch"
        for directory in (self.at, self.scratch, place / "files"):
            directory.mkdir(parents=True)
        self.files, self.large = place / "files", place / "large"
        for number in range(given.files):
            (self.files / f"f{number}").write_bytes(os.urandom(2000))
        with self.large.open("wb") as file:
            for _ in range(given.size):
                file.write(os.urandom(MIB))
        self.rows: dict[str, float] = {}

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it anew."""
        command = SYSTEMS[self.name](self.url, self.server.bucket, self.prefix, self.at, self.scratch)
        with (self.scratch / "log").open("ab") as log:
            process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._wait(lambda: os.path.ismount(self.at) or process.poll() is not None)
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} does not mount: {(self.scratch / 'log').read_text(errors='replace')[-500:]}")
            yield
        finally:
            subprocess.run(["umount", self.at], check=False, capture_output=True, timeout=TIMEOUT)
            try:
                process.wait(TIMEOUT)
            finally:
                process.kill()
                subprocess.run(["umount", "-l", self.at], check=False, capture_output=True, timeout=PATIENCE)

    def _wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(self.name)
            time.sleep(0.05)

    def _row(self, row: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        self.rows[row] = time.perf_counter() - begun

    def _run(self, *command: Any) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT, cwd=self.at)

    def _is_sent(self, *names: str) -> bool:
        return {f"{self.prefix}/{name}" for name in names} <= set(self.server.names(self.server.bucket))

    def _read_all(self) -> None:
        def read(name: str) -> int:
            return len((self.at / "files" / name).read_bytes())

        with ThreadPoolExecutor(READERS) as pool:
            sizes = list(pool.map(read, os.listdir(self.files)))
        assert sum(sizes) == 2000 * self.given.files

    def write(self) -> None:
        """The rows that write."""
        with self.mounted():
            begun = time.perf_counter()
            self._row("small files written", self._run("cp", "-r", self.files, "."))
            self._wait(lambda: self._is_sent(*(f"files/{name}" for name in os.listdir(self.files))))
            self.rows["small files written and sent"] = time.perf_counter() - begun
            begun = time.perf_counter()
            self._row("large file written", self._run("dd", f"if={self.large}", "of=large", "bs=1M", "conv=fsync"))
            self._wait(lambda: self._is_sent("large"))
            self.rows["large file written and sent"] = time.perf_counter() - begun

    def read(self) -> None:
        """The rows that read what was written, and delete it."""
        with self.mounted():
            self._row("ls -lR cold", self._run("ls", "-lR"))
            self._row("ls -lR again", self._run("ls", "-lR"))
            self._row(f"small files read by {READERS} cold", self._read_all)
            self._row("large file read cold", self._run("cmp", "large", self.large))
            self._row("large file read again", self._run("cmp", "large", self.large))
        with self.mounted():
            self._row("rm -r", self._run("rm", "-r", "files"))

    def clone(self) -> None:
        """The rows of a repository, this one."""
        clone = ("git", "clone", "--no-local", Path(__file__).parents[2], "clone")
        subprocess.run(clone, check=True, capture_output=True, timeout=TIMEOUT, cwd=self.scratch)
        names = [str(path.relative_to(self.scratch)) for path in (self.scratch / "clone").rglob("*") if path.is_file()]
        with self.mounted():
            begun = time.perf_counter()
            self._row("git clone", self._run(*clone))
            self._wait(lambda: self._is_sent(*names))
            self.rows["git clone and sent"] = time.perf_counter() - begun

    def list_foreign(self) -> None:
        """The row of what somebody else has put into the bucket, in directories of 500."""
        with ThreadPoolExecutor(READERS) as pool:
            names = [f"{self.prefix}/keys/d{number // 500}/k{number}" for number in range(self.given.keys)]
            list(pool.map(lambda name: self.server.put(self.server.bucket, name, b"of others"), names))
        with self.mounted():
            self._row(f"ls -lR of {self.given.keys} keys of others", self._run("ls", "-lR", "keys"))


@contextlib.contextmanager
def reached(server: SeaweedFS, delay: float) -> Iterator[str]:
    """The server's URL, at which its answers take so many seconds."""
    if not delay:
        yield server.endpoint
        return
    (port,) = free_ports(1)
    command = [sys.executable, Path(__file__).with_name("delayed.py"), port, server.endpoint.rpartition(":")[2], delay]
    process = subprocess.Popen([str(word) for word in command])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _told(figures: dict[str, dict[str, float]]) -> str:
    names = list(figures)
    rows = list(next(iter(figures.values())))
    lines = [f"{'':34}" + "".join(f"{name:>10}" for name in names)]
    lines += [f"{row:34}" + "".join(f"{figures[name][row]:10.2f}" for name in names) for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Time what is installed, and print a table of seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--files", type=int, default=300, metavar="COUNT")
    parser.add_argument("--size", type=int, default=256, metavar="MIB")
    parser.add_argument("--keys", type=int, default=2000, metavar="COUNT")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    given = parser.parse_args()
    names = [name for name in given.systems.split(",") if name in {"joinfs", "writeback", "cached"} or shutil.which(name)]
    with tempfile.TemporaryDirectory(prefix="joinfs-bench-") as place:
        (Path(place) / "server").mkdir()
        server = SeaweedFS(Path(place) / "server")
        try:
            with reached(server, given.delay) as url:
                figures = {}
                for name in names:
                    bench = Bench(name, server, url, Path(place) / name, given)
                    bench.write()
                    bench.read()
                    bench.clone()
                    bench.list_foreign()
                    figures[name] = bench.rows
        finally:
            server.stop()
    print(f"seconds; {given.files} files of 2,000 bytes, one of {given.size} MiB, {given.delay} s for a request and its answer")
    print(_told(figures))


if __name__ == "__main__":
    main()
