"""The demonstration: three stores of different kinds, joined and mounted, with real files and real tools.

Run it with ``make demo``, or ``python -m joinfs.demo``.
"""

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
JOINFS = [sys.executable, "-m", "joinfs"]


def say(text: str) -> None:
    """Print a line of explanation."""
    print(f"\n# {text}", flush=True)


def run(command: str, place: Path) -> None:
    """Show a command and what it prints."""
    print(f"$ {command}", flush=True)
    subprocess.run(["/bin/sh", "-c", command], cwd=place, check=True, timeout=60)


def joinfs(*arguments: str, place: Path) -> None:
    """Show a joinfs command and run it."""
    print(f"$ joinfs {shlex.join(arguments)}", flush=True)
    subprocess.run([*JOINFS, *arguments], cwd=place, check=True, timeout=60)


def make_zip(place: Path) -> Path:
    """A zip archive of the encodings that come with Python, at its root."""
    archive = place / "encodings.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted((STDLIB / "encodings").glob("*.py")):
            zipped.write(path, f"from-zip/{path.name}")
    return archive


def fingerprint(*places: Path) -> str:
    """A hash of every file at or below some places."""
    digest = hashlib.blake2b(digest_size=8)
    for place in places:
        for path in sorted(p for p in [place, *place.rglob("*")] if p.is_file() and p.suffix != ".pyc"):
            digest.update(os.fsencode(path.name) + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def mounted(place: Path, mountpoint: str) -> Iterator[None]:
    """Mount the three stores, and unmount whatever happens."""
    joinfs("mount", "sqlite:changes.db", str(STDLIB), "encodings.zip", mountpoint, place=place)
    try:
        yield
    except BaseException:
        subprocess.run([*JOINFS, "umount", mountpoint], cwd=place, check=False)
        raise
    joinfs("umount", mountpoint, place=place)


def show_changes(place: Path) -> None:
    """Look around, and change things."""
    say("One directory: Python's library, and beside it what is in the archive.")
    run("ls mnt | head -5; ls mnt/from-zip | wc -l; du -sh mnt/json", place)
    run("head -2 mnt/from-zip/ascii.py; getfattr --only-values -n user.joinfs.store mnt/from-zip/ascii.py; echo", place)
    say("Write, change, delete, rename, tag: all of it goes into changes.db.")
    run("echo 'a note' > mnt/note.txt && cat mnt/note.txt", place)
    run("echo '# changed' >> mnt/from-zip/ascii.py && tail -1 mnt/from-zip/ascii.py", place)
    run("rm mnt/this.py && ls mnt/this.py 2>&1 || true", place)
    run("mv mnt/json mnt/json-renamed && ls mnt/json-renamed | head -2", place)
    run("setfattr -n user.colour -v red mnt/note.txt && getfattr -d mnt/note.txt", place)


def show_kept(place: Path) -> None:
    """See the changes again."""
    run("cat mnt/note.txt; tail -1 mnt/from-zip/ascii.py; ls -d mnt/this.py mnt/json-renamed 2>&1 || true", place)
    run("getfattr --only-values -n user.colour mnt/note.txt; echo", place)


def main() -> int:
    """Run the demonstration and answer an exit code."""
    place = Path(tempfile.mkdtemp(prefix="joinfs-demo-"))
    try:
        (place / "mnt").mkdir()
        archive = make_zip(place)
        before = fingerprint(STDLIB, archive)
        say(f"In {place}: a new SQLite store first, then the directory {STDLIB}, then a zip archive.")
        with mounted(place, "mnt"):
            show_changes(place)
        say("The directory and the archive are as they were.")
        after = fingerprint(STDLIB, archive)
        print(f"fingerprint before {before}, after {after}")
        if before != after:
            return 1
        say("Mounted again, the changes are still there.")
        with mounted(place, "mnt"):
            show_kept(place)
    except subprocess.CalledProcessError:
        return 1
    finally:
        shutil.rmtree(place, ignore_errors=True)
    command = shlex.join([str(Path(sys.executable).parent / "joinfs"), "mount", "sqlite:changes.db"])
    say("The same with your own data (and 'joinfs umount MOUNTPOINT' when you are done):")
    print(f"{command} YOUR_DIRECTORY YOUR_ARCHIVE.zip MOUNTPOINT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
