"""Ordinary tools on a mount, compared with the same on a plain directory. SEMANTICS.md, Tools."""

import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest

from tests.mounted.conftest import make_directory

GIT = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@a",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "PATH": os.environ["PATH"],
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}  # fmt: skip


def described(place):
    """Everything about a tree that tools keep: kinds, modes, owners, times, targets, data, attributes."""
    found = {}
    for path in sorted(place.rglob("*")):
        native = path.lstat()
        about = [stat.S_IFMT(native.st_mode), stat.S_IMODE(native.st_mode), native.st_uid, native.st_gid]
        if path.is_symlink():
            about += [os.readlink(path)]
        else:
            about += [native.st_mtime_ns, {n: os.getxattr(path, n) for n in os.listxattr(path) if n.startswith("user.")}]
        if path.is_file() and not path.is_symlink():
            about += [hashlib.sha256(path.read_bytes()).hexdigest(), native.st_nlink > 1]
        found[str(path.relative_to(place))] = about
    return found


@pytest.fixture
def lower(scratch, user):
    """A directory with some of everything, and its description before and after."""
    place = scratch / "lower"
    (place / "sub" / "deep").mkdir(parents=True)
    (place / "sub" / "deep" / "data").write_bytes(os.urandom(300_000))
    for number in range(30):
        (place / "sub" / f"f{number}").write_text(f"line {number}\n" * number)
    (place / "empty").mkdir()
    (place / "link").symlink_to("sub/f3")
    (place / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (place / "run.sh").chmod(0o755)
    (place / "naïve \N{SNOWMAN}").write_text("text")
    os.setxattr(place / "sub" / "f1", "user.colour", b"red")
    os.utime(place / "sub" / "f2", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    for path in [place, *place.rglob("*")]:
        if path.is_dir():  # rsync leaves times alone that differ by less than a second
            os.utime(path, ns=(1_600_000_000_000_000_001, 1_500_000_000_000_000_002))
        if user.uid is not None:
            os.chown(path, user.uid, user.uid, follow_symlinks=False)
    before = described(place)
    yield place
    assert described(place) == before, "the lower directory was changed"


def test_git_clones_commits_and_sees_no_changes_that_are_not_there(mount, user, upper, lower, scratch, need):
    need("git")

    def git(place, *arguments):
        command = ["git", "-c", "safe.directory=*", "-C", str(place), *arguments]
        return user.run(command, env=GIT).stdout

    def history(place):
        git(place, "init", "-q", "-b", "main", "origin")
        (place / "origin" / "a.txt").write_text("one\n") if user.uid is None else user.run(
            ["sh", "-c", f"echo one > {place}/origin/a.txt"]
        )
        git(place / "origin", "add", "-A")
        git(place / "origin", "commit", "-qm", "one")
        git(place, "clone", "-q", "origin", "clone")
        user.run(["sh", "-c", f"echo two >> {place}/clone/a.txt; echo new > {place}/clone/b.txt"])
        status = git(place / "clone", "status", "--porcelain")
        git(place / "clone", "add", "-A")
        git(place / "clone", "commit", "-qm", "two")
        git(place / "clone", "gc", "-q")
        assert git(place / "clone", "status", "--porcelain") == ""
        git(place / "clone", "fsck", "--strict")
        return status, git(place / "clone", "log", "--format=%H")

    plain = scratch / "plain"
    plain.mkdir()
    if user.uid is not None:
        os.chown(plain, user.uid, user.uid)
    with mount(upper, lower) as mnt:
        assert history(mnt) == history(plain)
    with mount(upper, lower) as mnt:
        assert git(mnt / "clone", "status", "--porcelain") == ""
        git(mnt / "clone", "fsck", "--strict")


def test_what_tar_packs_and_unpacks_is_the_same(mount, user, upper, lower, scratch, need):
    need("tar")
    with mount(upper, lower) as mnt:
        user.run(["tar", "--xattrs", "-C", str(mnt), "-cf", str(scratch / "a.tar"), "."])
        user.run(["mkdir", str(mnt / "unpacked"), str(scratch / "plain")])
        for target in (mnt / "unpacked", scratch / "plain"):
            user.run(["tar", "--xattrs", "--xattrs-include=user.*", "-C", str(target), "-xpf", str(scratch / "a.tar")])
        assert described(mnt / "unpacked") == described(scratch / "plain") == described(lower)


def test_rsync_finds_nothing_more_to_copy(mount, user, upper, lower, need):
    need("rsync")
    with mount(upper, lower) as mnt:
        user.run(["mkdir", str(mnt / "copy")])
        user.run(["rsync", "-aXH", "--checksum", f"{lower}/", f"{mnt}/copy/"])
        again = user.run(["rsync", "-aXH", "--checksum", "--itemize-changes", "--delete", f"{lower}/", f"{mnt}/copy/"])
        assert again.stdout == ""
        assert described(mnt / "copy") == described(lower)
    with mount(upper, lower) as mnt:
        assert described(mnt / "copy") == described(lower)


def test_cp_a_copies_out_of_the_mount_and_into_it(mount, user, upper, lower, scratch):
    with mount(upper, lower) as mnt:
        user.run(["cp", "-a", str(mnt), str(scratch / "out")])
        assert described(scratch / "out") == described(lower)
        user.run(["cp", "-a", str(lower), str(mnt / "in")])
        assert described(mnt / "in") == described(lower)


def test_an_sqlite_database_lives_in_the_mount(mount, user, upper, lower, need):
    need("sqlite3")
    with mount(upper, lower) as mnt:
        database = str(mnt / "data.db")
        for mode in ("delete", "truncate", "wal"):
            user.run(["sqlite3", database, f"pragma journal_mode={mode}; create table if not exists t (x); insert into t values (1)"])
    with mount(upper, lower) as mnt:
        counted = user.run(["sqlite3", str(mnt / "data.db"), "pragma integrity_check; select count(*) from t"])
        assert counted.stdout.split() == ["ok", "3"]


def test_pip_installs_into_the_mount_what_it_installs_elsewhere(mount, user, upper, lower, scratch):
    wheel = scratch / "demo-1.0-py3-none-any.whl"
    make_wheel(wheel)
    interpreter = sys.executable if user.uid is None else "/usr/bin/python3"
    pip = [interpreter, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    if user.uid is not None and user.run([interpreter, "-m", "pip", "--version"], check=False).returncode != 0:
        pip[:3] = [sys.executable, "-m", "pip"] if os.geteuid() != 0 else pytest.skip("needs a pip that an ordinary user can run")
    environment = {"PATH": os.environ["PATH"], "HOME": str(scratch)}
    with mount(upper, lower) as mnt:
        for target in (mnt / "site", scratch / "plain"):
            user.run([*pip, "--target", str(target), str(wheel)], env=environment, cwd=str(scratch))
        hashes = [{n: v[-2] for n, v in described(place).items() if v[0] == stat.S_IFREG} for place in (mnt / "site", scratch / "plain")]
        assert hashes[0] == hashes[1]
        assert "demo/__init__.py" in hashes[0]
        ran = user.run([interpreter, "-c", "import demo; print(demo.answer)"], env={**environment, "PYTHONPATH": str(mnt / "site")})
        assert ran.stdout == "42\n"


def make_wheel(path):
    import zipfile

    record = "demo/__init__.py,,\ndemo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/WHEEL,,\ndemo-1.0.dist-info/RECORD,,\n"
    members = {
        "demo/__init__.py": "answer = 42\n",
        "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo-1.0.dist-info/RECORD": record,
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in members.items():
            wheel.writestr(name, text)
    path.chmod(0o644)


def test_a_compiler_builds_in_the_mount(mount, user, upper, lower, need):
    need("make", "sh")
    with mount(upper, lower) as mnt:
        user.run(["sh", "-c", f"printf 'out: in\\n\\tcp in out\\n' > {mnt}/Makefile; echo data > {mnt}/in"])
        user.run(["make", "-C", str(mnt)])
        again = user.run(["make", "-C", str(mnt)])
        assert "up to date" in again.stdout
        assert user.run([str(mnt / "run.sh")]).stdout == "ran\n"


def test_removing_all_of_a_lower_directory_leaves_it_as_it_was(mount, user, upper, lower):
    with mount(upper, lower) as mnt:
        user.run(["rm", "-rf", str(mnt / "sub")])
        assert not (mnt / "sub").exists()
    with mount(upper, lower) as mnt:
        assert sorted(p.name for p in mnt.iterdir()) == sorted({p.name for p in lower.iterdir()} - {"sub"})


def test_three_kinds_of_stores_are_one_directory(mount, user, scratch, lower):
    import zipfile

    archive = Path(scratch / "a.zip")
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("sub/from-zip", "zipped")
        zipped.writestr("sub/f3", "hidden by the directory")
    with mount(f"sqlite:{scratch}/new.db", lower, archive) as mnt:
        assert (mnt / "sub" / "from-zip").read_text() == "zipped"
        assert (mnt / "sub" / "f3").read_text() == "line 3\n" * 3
        user.run(["sh", "-c", f"echo more >> {mnt}/sub/from-zip"])
        assert (mnt / "sub" / "from-zip").read_text() == "zippedmore\n"
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.read("sub/from-zip") == b"zipped"


CHANGES = """
set -e
mv sub moved && mkdir sub && echo new > sub/f1
mv moved/deep moved/deeper && rm moved/f2 && ln moved/f3 sub/linked && mv moved/f4 moved/f5
rm -r empty && mkdir empty && echo in > empty/it
rm run.sh && cp -p moved/f6 run.sh && chmod 700 run.sh
rm link && ln -s moved/f7 link
rm -r moved/deeper && mkdir moved/deeper && mv moved/f8 moved/deeper
mv moved/deeper . && rmdir deeper 2>/dev/null || mv deeper sub
sed -i s/line/LINE/ moved/f9
"""


def undated(place):
    return {path: [*about[:4], *(a for a in about[4:] if not isinstance(a, int) or isinstance(a, bool))] for path, about in described(place).items()}


@pytest.mark.parametrize("whiteouts", ["oci", "overlay"])
def test_what_hides_leaves_what_a_plain_directory_has(mount, user, lower, scratch, whiteouts):
    upper, plain = scratch / "upper", scratch / "plain"
    make_directory(user, upper)
    user.run(["cp", "-a", lower, plain])
    user.run(["sh", "-c", CHANGES], cwd=plain)
    options = ["-o", f"whiteouts={whiteouts}"]
    with mount(f"dir:{upper}", lower, options=options) as mnt:
        user.run(["sh", "-c", CHANGES], cwd=mnt)
    with mount(f"dir:{upper}", lower, options=options) as mnt:
        assert undated(mnt) == undated(plain)
    marks = [path for path in upper.rglob("*") if path.name.startswith(".wh.") or path.is_char_device()]
    assert marks
    assert {path.is_char_device() for path in marks} == {whiteouts == "overlay"}
