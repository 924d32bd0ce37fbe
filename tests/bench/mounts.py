"""Times mounts of joinfs beside the peers that are installed, and beside what joinfs took the last time.

    make bench
    make bench BENCH_ARGS='--rounds 1 --systems native,mergerfs,joinfs --only walk,untar'
    .venv/bin/python tests/bench/mounts.py --small --rounds 1

Every round visits all systems in turn, so that what slows the machine slows all. Each gets an empty upper over the same
lower, and the run ends if that was changed; ``native`` is a copy of it, with nothing mounted. Figures are medians, in
seconds. *Cold* is after the kernel dropped its caches, *warm* after the same was done once, untimed. Peers get the
options that make them quickest while nobody else changes their layers.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 300  # seconds for a row; nothing else has as long
MIB = 1 << 20
IS_ROOT = os.geteuid() == 0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DROP_CACHES = "/proc/sys/vm/drop_caches"
GIT = ["git", "-c", "safe.directory=*", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
ENVIRONMENT = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"}
Figures = dict[str, dict[str, float]]  # seconds, by system and row


@dataclass(frozen=True)
class System:
    """Something that shows an upper over a lower.

    Attributes:
        command: What mounts it; empty if nothing does.
        own_lower: It may write to its lower, so it gets a copy.
        other_work: Rows that are other work to it, and left out.
    """

    name: str
    command: str = ""
    own_lower: bool = False
    other_work: tuple[str, ...] = ()

    def is_here(self) -> bool:
        return IS_ROOT if self.name == "overlayfs" else not self.command or shutil.which(shlex.split(self.command)[0]) is not None


JOINFS = f"{shlex.quote(sys.executable)} -m joinfs mount -f"
MERGERFS = "category.create=ff,cache.files=auto-full,cache.writeback=true,cache.readdir=true,cache.attr=3600,cache.entry=3600"
UNIONFS = "cow,kernel_cache,big_writes,attr_timeout=3600,entry_timeout=3600"
SYSTEMS = [
    System("native", own_lower=True),
    System("overlayfs", "mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {at}"),
    System("fuse-overlayfs", "fuse-overlayfs -f -o lowerdir={lower},upperdir={upper},workdir={work} {at}"),
    # It changes and deletes a file where that is.
    System("mergerfs", f"mergerfs -f -o {MERGERFS} {{upper}}:{{lower}} {{at}}", own_lower=True, other_work=("copy-up", "rm -rf lower")),
    System("unionfs", f"unionfs -f -o {UNIONFS} {{upper}}=RW:{{lower}}=RO {{at}}"),
    System("joinfs", JOINFS + " dir:{upper} dir:{lower} {at}"),
    System("joinfs-fusepy", JOINFS + " --driver fusepy dir:{upper} dir:{lower} {at}"),
    System("joinfs-sqlite", JOINFS + " sqlite:{upper}/upper.db dir:{lower} {at}"),
]
C_PEERS = ("fuse-overlayfs", "mergerfs", "unionfs")


# -------------------------------------------------------------------- what they show


class Lower:
    """The lower of all: groups of 500 small files in ten directories, a repository of half of them, and a large file."""

    def __init__(self, place: str, small: bool) -> None:
        self.place, self.tree, self.archive = place, f"{place}/lower", f"{place}/half.tar"
        self.part = 16 if small else 1
        self.groups = [f"small/g{number:02}" for number in range(4 if small else 20)]
        self.half = self.groups[: len(self.groups) // 2]
        self.files = [f"{group}/d{d}/f{f:02}" for group in self.groups for d in range(10) for f in range(50)]

    def size(self, mib: int) -> int:
        return mib * MIB // self.part

    def make(self) -> None:
        chance = random.Random(20)
        for name in self.files:
            os.makedirs(os.path.dirname(f"{self.tree}/{name}"), exist_ok=True)
            with open(f"{self.tree}/{name}", "wb") as file:
                file.write(chance.randbytes(chance.randrange(100, 8000)))
            os.utime(f"{self.tree}/{name}", (1e9, 1e9))
        with open(f"{self.tree}/large", "wb") as file:
            file.writelines(chance.randbytes(MIB) for _ in range(self.size(512) // MIB))
        run("tar", "-cf", self.archive, "-C", self.tree, *self.half)
        if shutil.which("git"):
            self._make_repository()

    def _make_repository(self) -> None:
        """One whose index fits every mount of it, whatever inode numbers and times of change that shows."""
        for group in self.half:
            shutil.copytree(f"{self.tree}/{group}", f"{self.tree}/repository/{os.path.basename(group)}")
        for arguments in ("init -q", "config core.checkStat minimal", "config core.trustctime false", "add -A", "commit -qm all"):
            run(*GIT, "-C", f"{self.tree}/repository", *arguments.split())

    def state(self) -> set[tuple[Any, ...]]:
        """What would be different if somebody had changed it."""
        paths = (f"{directory}/{name}" for directory, _, names in os.walk(self.tree) for name in (".", *names))
        return {(path, stat.st_mode, stat.st_size, stat.st_mtime_ns) for path in paths for stat in [os.lstat(path)]}


# -------------------------------------------------------------------- the work

Work = Callable[[str, Lower], object]


def run(*command: str) -> None:
    """Run a program to its end; what it prints is told only if it fails."""
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=2 * TIMEOUT, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {last_line(done.stderr)}")


def last_line(said: bytes) -> str:
    return said.decode(errors="replace").strip().rpartition("\n")[2] or "failed without a word"


def walk(at: str, lower: Lower) -> None:
    run("du", "-a", at)


def read_small(at: str, lower: Lower) -> None:
    for name in lower.files:
        with open(f"{at}/{name}", "rb", buffering=0) as file:
            file.read(8000)


def git_status(at: str, lower: Lower) -> None:
    run(*GIT, "-C", f"{at}/repository", "status", "--porcelain")


def read_large(at: str, lower: Lower) -> None:
    piece = bytearray(MIB)
    with open(f"{at}/large", "rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def read_4k(at: str, lower: Lower) -> None:
    chance = random.Random(4)
    with open(f"{at}/large", "rb", buffering=0) as file:
        for _ in range(4096 // lower.part):
            os.pread(file.fileno(), 4096, 4096 * chance.randrange(lower.size(512) // 4096))


def write(path: str, block: int, size: int) -> None:
    data = b"written\n" * (block // 8)
    with open(path, "xb", buffering=0) as file:
        file.writelines(data for _ in range(size // block))


def create(at: str, lower: Lower) -> None:
    os.mkdir(f"{at}/created")
    for number in range(len(lower.files) // 5):
        write(f"{at}/created/{number}", 1000, 1000)


def copy_up(at: str, lower: Lower) -> None:
    for name in lower.files[:500]:
        with open(f"{at}/{name}", "ab", buffering=0) as file:
            file.write(b".")


def untar(at: str, lower: Lower) -> None:
    if not os.path.exists(f"{at}/untarred"):
        os.mkdir(f"{at}/untarred")
        run("tar", "-xf", lower.archive, "-C", f"{at}/untarred")


def remove_lower(at: str, lower: Lower) -> None:
    run("rm", "-rf", *(f"{at}/{group}" for group in lower.groups if group not in lower.half))


@dataclass(frozen=True)
class Row:
    """Some work, and what is done before it and not timed."""

    name: str
    work: Work
    before: Work | None = None
    cold: bool = False


def cold_and_warm(name: str, work: Work) -> list[Row]:
    return [Row(f"{name} cold", work, cold=True), Row(f"{name} warm", work, before=work)]


ROWS = [  # in this order, on one mount
    *cold_and_warm("walk", walk),
    *cold_and_warm("read small", read_small),
    *cold_and_warm("git status", git_status),
    *cold_and_warm("read large", read_large),
    *cold_and_warm("read 4k", read_4k),
    Row("write 1M", lambda at, lower: write(f"{at}/written", MIB, lower.size(256))),
    Row("write 4k", lambda at, lower: write(f"{at}/written in bits", 4096, lower.size(64))),
    Row("create", create),
    Row("copy-up", copy_up, before=read_small),
    Row("untar", untar),
    Row("rm -rf new", lambda at, _: run("rm", "-rf", f"{at}/untarred"), before=untar),
    Row("rm -rf lower", remove_lower, before=walk),
]


# -------------------------------------------------------------------- mounting


def mounts_in(place: str) -> list[str]:
    """What is mounted somewhere in a directory, even if its server is dead."""
    with open("/proc/self/mounts") as mounts:
        paths = [line.split()[1].replace("\\040", " ") for line in mounts]
    return [path for path in paths if path.startswith(f"{place}/")]


def unmount_in(place: str, patience: float) -> None:
    """Unmount what is mounted in a directory; lazily if that is in use for long."""
    command, until = ["umount"] if IS_ROOT else ["fusermount3", "-u"], time.monotonic() + patience
    while (mounts := mounts_in(place)) and time.monotonic() < until + 1:
        lazily = [] if time.monotonic() < until else ["-l" if IS_ROOT else "-z"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, *lazily, mounts[-1]], stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
        time.sleep(0.1)


@contextlib.contextmanager
def mounted(system: System, lower: Lower, place: str) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """Answer where a system shows the lower, and what serves it; at the end both are gone, whatever happens."""
    shown = f"{place}/lower" if system.own_lower else lower.tree
    if system.own_lower:
        run("cp", "-a", lower.tree, shown)
    if not system.command:
        yield shown, None
        return
    at, upper, work = (tempfile.mkdtemp(dir=place) for _ in range(3))
    command = [word.format(lower=shown, upper=upper, work=work, at=at) for word in shlex.split(system.command)]
    with open(f"{place}/log", "wb") as log:
        environment = {**ENVIRONMENT, "XDG_CACHE_HOME": work}
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 30
        while at not in mounts_in(place):
            if server.poll() or time.monotonic() > until:
                with open(f"{place}/log", "rb") as log:
                    raise OSError(f"it did not mount: {last_line(log.read())}")
            time.sleep(0.02)
        yield at, server
    finally:
        unmount_in(place, patience=10)
        try:
            server.wait(TIMEOUT)  # it commits
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)
            raise


# -------------------------------------------------------------------- timing


def timed(row: Row, at: str, lower: Lower, server: subprocess.Popen[bytes] | None) -> float:
    """Answer the seconds that a row took.

    Raises:
        OSError: It failed; or it took too long, and its server was killed, as who waits for a mount cannot be.
    """
    watchdog = threading.Timer(TIMEOUT, server.kill if server else lambda: None)
    watchdog.daemon = True
    watchdog.start()
    try:
        if row.before:
            row.before(at, lower)
        os.sync()
        if row.cold:
            Path(DROP_CACHES).write_text("3")
            time.sleep(0.3)  # servers are told what is forgotten
        began = time.perf_counter()
        row.work(at, lower)
        return time.perf_counter() - began
    except (OSError, subprocess.SubprocessError) as error:
        raise OSError(f"{row.name}: {error}") from error
    finally:
        watchdog.cancel()


def visit(system: System, lower: Lower, rows: list[Row], found: dict[str, list[float]]) -> None:
    """Add what each row took on a new mount; rows after one that fails are not tried."""
    with tempfile.TemporaryDirectory(prefix=f"{system.name}-", dir=lower.place, ignore_cleanup_errors=True) as place:
        with mounted(system, lower, place) as (at, server):
            for row in rows:
                if row.name not in system.other_work:
                    seconds = timed(row, at, lower, server)
                    found.setdefault(row.name, []).append(seconds)


def measure(systems: list[System], rows: list[Row], rounds: int, lower: Lower, notes: list[str]) -> Figures:
    """Answer the medians; note what failed."""
    lower.make()
    before = lower.state()
    found: dict[str, dict[str, list[float]]] = {system.name: {} for system in systems}
    for turn in range(rounds):
        first = turn % len(systems)
        for system in systems[first:] + systems[:first]:
            print(f"round {turn + 1} of {rounds}: {system.name}", file=sys.stderr)
            try:
                visit(system, lower, rows, found[system.name])
            except (OSError, subprocess.SubprocessError) as error:
                notes.append(f"{system.name} failed: {error}")
            if lower.state() != before:
                sys.exit(f"{system.name} changed its lower, so that nothing after it would be the same work")
    return {name: {row: statistics.median(seconds) for row, seconds in some.items()} for name, some in found.items()}


# -------------------------------------------------------------------- telling


def tell_seconds(found: Figures, rows: list[Row]) -> None:
    print(f"\n{'seconds':<16}" + "".join(f"{system:>15}" for system in found))
    for row in rows:
        print(f"{row.name:<16}" + "".join(f"{shown(some.get(row.name)):>15}" for some in found.values()))


def tell_ratios(ours: str, found: Figures, last: Figures, rows: list[Row]) -> None:
    """One of ours beside the others, and the last run; native's change since then is the machine's share in ours."""
    print(f"\n{ours:<16}{'/ best C peer':>15} {'which is':<15}{'/ overlayfs':>12}{'last run':>10}{'change':>9}{'native':>9}")
    for row in rows:
        then, now = ({system: some.get(row.name) for system, some in figures.items()} for figures in (last, found))
        best = min((peer for peer in C_PEERS if now.get(peer)), key=lambda peer: now[peer] or 0, default="-")
        ratios = f"{ratio(now[ours], now.get(best)):>15} {best:<15}{ratio(now[ours], now.get('overlayfs')):>12}"
        changes = "".join(f"{change(now.get(system), then.get(system)):>9}" for system in (ours, "native"))
        print(f"{row.name:<16}{ratios}{shown(then.get(ours)):>10}{changes}")


def shown(seconds: float | None) -> str:
    return f"{seconds:.4f}" if seconds else "-"


def ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else "-"


def change(now: float | None, then: float | None) -> str:
    return f"{100 * (now / then - 1):+.0f} %" if now and then else "-"


def report(found: Figures, rows: list[Row], size: str) -> None:
    """Print the tables, and keep the figures for the next run; those of rows that were not run stay."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "joinfs", "bench.json")
    kept: dict[str, Figures] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
    last = kept.get(size, {})
    tell_seconds(found, rows)
    for ours in (system for system in found if system.startswith("joinfs")):
        tell_ratios(ours, found, last, rows)
    kept[size] = {**last, **{system: {**last.get(system, {}), **some} for system, some in found.items()}}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1))


# -------------------------------------------------------------------- the command


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each system is visited")
    parser.add_argument("--only", metavar="WORD,...", default="", help="only rows that have one of these in their names")
    parser.add_argument("--systems", metavar="NAME,...", default="", help="of " + ", ".join(system.name for system in SYSTEMS))
    parser.add_argument("--small", action="store_true", help="a small lower, to try whether all works")
    parser.add_argument("--scratch", metavar="DIR", default="/var/tmp", help="on a disk, with room for 3 GB")
    parser.add_argument("--json", metavar="FILE", help="write the medians there too")
    given = parser.parse_args()
    names = given.systems.split(",") if given.systems else [system.name for system in SYSTEMS]
    given.systems = [system for system in SYSTEMS if system.name in names]
    given.rows = [row for row in ROWS if any(f" {word}" in f" {row.name}" for word in given.only.split(","))]
    if given.rounds < 1 or len(given.systems) < len(set(names)) or not given.rows:
        parser.error("there is no such system, or row, or nothing to do")
    return given


def main() -> None:
    given = parsed()
    can_drop, has_git = os.access(DROP_CACHES, os.W_OK), shutil.which("git") is not None
    systems = [system for system in given.systems if system.is_here()]
    rows = [row for row in given.rows if (can_drop or not row.cold) and (has_git or row.work is not git_status)]
    missing = [system.name for system in given.systems if system not in systems] + ["git"] * (not has_git)
    notes = [f"not here, so left out: {', '.join(missing)}"] * bool(missing)
    notes += ["cold rows are left out: only root can drop the kernel's caches"] * (not can_drop)
    if not systems or not rows:
        sys.exit("; ".join(notes))
    for number in INTERRUPTS:
        signal.signal(number, lambda *_: sys.exit("ended"))
    with tempfile.TemporaryDirectory(prefix="joinfs-bench-", dir=given.scratch, ignore_cleanup_errors=True) as place:
        try:
            found = measure(systems, rows, given.rounds, Lower(os.path.realpath(place), given.small), notes)
        finally:
            for number in INTERRUPTS:
                signal.signal(number, signal.SIG_IGN)
            unmount_in(os.path.realpath(place), patience=0)
    report(found, rows, "small" if given.small else "full")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1))
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
