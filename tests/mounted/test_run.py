"""Commands that are run in a view of their own. SEMANTICS.md, Running a command."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import joinfs
from tests import terminals
from tests.mounted.conftest import TIMEOUT
from tests.mounted.test_tools import GIT
from tests.terminals import answering


@pytest.fixture
def place(scratch, user):
    """A directory of the user's, which commands are run in."""
    (scratch / "work").mkdir()
    (scratch / "work" / "a").write_text("a\n")
    (scratch / "state").mkdir()
    own(user, scratch)
    return scratch / "work"


def own(user, place):
    if user.uid is not None:
        for path in [place, *place.rglob("*")]:
            os.chown(path, user.uid, user.uid, follow_symlinks=False)


@pytest.fixture
def run(user, place):
    """Call with the arguments of ``joinfs run``: answers how it went."""
    interpreter, environment = user.python()
    environment = {**environment, "XDG_STATE_HOME": str(place.parent / "state")}

    def run(*arguments, code=0, **options):
        command = [interpreter, "-m", "joinfs", "run", *map(str, arguments)]
        options = {"env": environment, "cwd": place, "stdin": subprocess.DEVNULL, **options}
        done = user.run(["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(options.pop("cwd")), *command], check=False, cwd="/", **options)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    run.command = [interpreter, "-m", "joinfs", "run"]
    run.environment = environment
    return run


def contents(place):
    return {
        str(path.relative_to(place)): (path.lstat().st_mode, os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None)
        for path in sorted(place.rglob("*"))
    }


def test_nothing_is_changed_before_it_is_said_so(run, place):
    before = contents(place)
    done = run("--", "sh", "-c", "echo b > b; rm a; mkdir d; pwd; ls")
    assert done.stdout.split() == [str(place), "b", "d"]
    assert contents(place) == before
    assert done.stderr.splitlines()[:3] == ["D  a", "A  b", "A  d/"]
    kept = done.stderr.splitlines()[3].partition("kept in ")[2].partition(";")[0]
    assert sorted(os.listdir(kept)) == [".wh.a", "b", "d"]
    assert "joinfs diff " in done.stderr


def test_changes_are_thrown_away_committed_or_kept(run, place):
    before = contents(place)
    run("--discard", "--", "sh", "-c", "rm -rf *; echo x > x")
    assert contents(place) == before
    assert "committed" in run("--commit", "--", "sh", "-c", "rm a; echo x > x; ln -s x l").stderr
    assert sorted(contents(place)) == ["l", "x"]
    for keep in ("changes.db", "changes"):
        for number in range(2):  # it goes on with what is there
            done = run("--keep", place.parent / "state" / keep, "--", "sh", "-c", f"ls; echo {number} > k{number}")
            assert done.stdout.split() == [*(["k0"] if number else []), "l", "x"]
    assert sorted(contents(place)) == ["l", "x"]
    if (runs := place.parent / "state" / "joinfs" / "runs").exists():  # root has another place
        assert not list(runs.iterdir())


@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137), (["no-such-command"], 127), (["./a"], 126)])
def test_the_exit_code_is_the_commands(run, command, code):
    run("--discard", "--", *command, code=code)


def test_what_is_asked_for_badly_is_one_sentence(run, place):
    for arguments, code, words in (
        ([], 2, "say which command"),
        (["--"], 2, "say which command"),
        (["--at", "none", "--", "true"], 1, "not a directory"),
        (["none", "--", "true"], 1, "no store at none"),
        (["--keep", "a", "--", "true"], 1, "neither a directory"),
        (["--keep", "inside", "--", "true"], 1, "in the same place"),
    ):
        done = run(*arguments, code=code)
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert os.listdir(place) == ["a"]


def test_stores_are_shown_elsewhere(run, place, user):
    with zipfile.ZipFile(place.parent / "z.zip", "w") as archive:
        archive.writestr("from/zip", "zip\n")
    (place.parent / "at").mkdir()
    own(user, place.parent)
    done = run(place, place.parent / "z.zip", "--at", place.parent / "at", "--", "sh", "-c", "pwd; cat a from/zip; echo more >> from/zip")
    assert done.stdout.split() == [str(place.parent / "at"), "a", "zip"]
    assert "M  from/zip" in done.stderr


def test_what_the_command_leaves_behind_ends_with_it(run, place):
    began = time.monotonic()
    run("--commit", "--", "sh", "-c", "(trap '' TERM; while true; do sleep 0.1; done) & setsid sleep 1000 & echo $! > pid")
    assert time.monotonic() - began < TIMEOUT / 2
    assert not Path(f"/proc/{(place / 'pid').read_text().strip()}").exists()


def test_what_is_in_the_directory_does_not_get_into_joinfs(run, place, user):
    for name in ("joinfs.py", "socket.py", "ctypes.py", "signal.py"):
        (place / name).write_text("raise SystemExit('not me')\n")
    own(user, place)
    interpreter = run.command[0]
    command = [interpreter, "-P", "-m", "joinfs", "run", "--discard", "--", "echo", "fine"]
    done = user.run(["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(place), *command], cwd="/", env=run.environment)
    assert done.stdout == "fine\n"


def test_a_view_in_a_view(run, place):
    inner = " ".join(run.command)
    done = run("--commit", "--", "sh", "-c", f"echo outer > o; {inner} --commit -- sh -c 'cat o; echo inner > i'; cat i")
    assert done.stdout.split() == ["outer", "inner"]
    assert (place / "i").read_text() == "inner\n"


def test_python_runs_commands_too(place, user):
    if user.uid is not None:
        pytest.skip("this process is root's")
    with joinfs.run(["sh", "-c", "echo b > b; exit 3"], [str(place)], place=str(place)) as ran:
        assert ran.code == 3
        assert [(change.kind, change.key) for change in ran.changes] == [("added", "b")]
        joinfs.commit(ran.join)
    assert (place / "b").read_text() == "b\n"


# -------------------------------------------------------------------- terminals


def on_terminal(run, place, arguments, answers=(), interrupt=None):
    """Run it on a terminal, as root; answer what was shown, and its exit code."""
    answer = answering(b"[p]atch?", answers)

    def react(shown, terminal, process):
        nonlocal interrupt
        answer(shown, terminal, process)
        if interrupt is not None and interrupt in shown:
            interrupt = None
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does

    return terminals.on_terminal([*run.command, *arguments], react, cwd=place, env=run.environment)


@pytest.mark.parametrize(("answers", "there"), [([b"d"], False), ([b"what", b"p", b"c"], True), ([b"k"], False), ([b""], False)])
def test_on_a_terminal_it_is_asked_what_becomes_of_it(run, place, user, answers, there):
    if user.uid is not None:
        pytest.skip("as root, who may have the terminal")
    shown, code = on_terminal(run, place, ["--", "sh", "-c", "echo new > new; exit 5"], answers)
    assert code == 5
    assert "A\033[0m  new" in shown
    assert (place / "new").exists() == there
    assert ("+new" in shown) == (b"p" in answers)
    assert ("kept in" in shown) == (answers[-1] in {b"k", b""})


def test_an_interrupt_at_the_question_keeps_the_changes(run, place, user):
    if user.uid is not None:
        pytest.skip("as root, who may have the terminal")
    shown, code = on_terminal(run, place, ["--", "sh", "-c", "echo new > new"], interrupt=b"[p]atch?")
    assert code == 0
    where = shown.partition("kept in ")[2].partition(";")[0]
    assert Path(where, "new").read_text() == "new\n"
    shutil.rmtree(where)


def test_the_command_gets_the_interrupt_and_what_it_wrote_is_not_lost(run, place, user):
    if user.uid is not None:
        pytest.skip("as root, who may have the terminal")
    script = "trap 'echo caught > caught; exit 9' INT; echo begun > begun; echo ready; while true; do sleep 0.05; done"
    _, code = on_terminal(run, place, ["--commit", "--", "sh", "-c", script], interrupt=b"ready")
    assert code == 9
    assert (place / "caught").read_text() == "caught\n"
    assert (place / "begun").exists()


def test_who_is_ended_ends_the_command_and_loses_nothing(run, place, user):
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(place), *run.command, "--keep", str(place.parent / "state" / "k"), "--",
         "sh", "-c", "echo begun > begun; echo ready; exec sleep 1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=run.environment, **user.options(),
    )  # fmt: skip
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert (place.parent / "state" / "k" / "begun").read_text() == "begun\n"


# -------------------------------------------------------------------- real projects

MAKEFILE = """\
all: app libx.a
%.o: %.c x.h
\tcc -c -o $@ $<
libx.a: x.o
\tar rcs $@ $^
app: main.o libx.a
\tcc -o $@ $^
install: all
\tmkdir -p out/bin && cp app out/bin/ && ln -sf app out/bin/alias
"""


def project(user, place):
    (place / "x.h").write_text("int x(void);\n")
    (place / "x.c").write_text('#include "x.h"\nint x(void) { return 42; }\n')
    (place / "main.c").write_text('#include "x.h"\nint main(void) { return x() - 42; }\n')
    (place / "Makefile").write_text(MAKEFILE)
    own(user, place)


def compared(run, user, place, command, ignored=(), **options):
    """Run a command in a view and commit it, and on a plain copy: the same is there."""
    plain = place.parent / "plain"
    shutil.copytree(place, plain, symlinks=True)
    own(user, plain)
    user.run(["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(plain), *command], cwd="/", **options)
    run("--commit", "--", *command, **options)
    one, other = contents(plain), contents(place)
    for name in {*one, *other}:
        if any(part in name for part in ignored):
            one.pop(name, None)
            other.pop(name, None)
    assert one == other


def test_make(run, user, place, need):
    need("make", "cc")
    project(user, place)
    compared(run, user, place, ["make", "-s", "install"])
    assert subprocess.run([place / "out" / "bin" / "alias"], check=False).returncode == 0
    run("--commit", "--", "make", "-q")  # nothing is older than what it was made of


def test_pip_install(run, user, place):
    interpreter, environment = user.python()
    if user.run([interpreter, "-m", "pip", "--version"], check=False, env=environment).returncode:
        pytest.skip("needs pip")
    wheel = place / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number in range(200):
            archive.writestr(f"some/m{number}.py", f"x = {number}\n")
        archive.writestr("some-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
        archive.writestr("some-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("some-1.0.dist-info/RECORD", "")
    own(user, place)
    command = [interpreter, "-m", "pip", "install", "-q", "--no-index", "--no-compile", "--no-cache-dir", "--target", "lib", str(wheel.name)]
    environment = {**run.environment, "HOME": str(place.parent / "state")}
    compared(run, user, place, command, env=environment, ignored=("direct_url", "RECORD", "METADATA.old"))
    done = subprocess.run([sys.executable, "-c", "import some.m7; print(some.m7.x)"], cwd=place / "lib", capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


def test_git_rebase(run, user, place, need):
    need("git")
    (place / "a").unlink()
    script = """
        git init -q -b main . && seq 1 200 > n && git add . && git commit -qm base
        git checkout -q -b topic && sed -i 's/^7$/seven/' n && git commit -qam seven && git mv n m && git commit -qm moved
        git checkout -q main && sed -i 's/^150$/150!/' n && mkdir d && seq 9 > d/x && git add . && git commit -qm more && git checkout -q topic
    """
    user.run(["/bin/sh", "-c", f"cd {place} && {script}"], cwd="/", env={**GIT})
    environment = {**run.environment, **GIT}
    compared(run, user, place, ["git", "rebase", "-q", "main"], env=environment, ignored=(".git/index", ".git/logs", "ORIG_HEAD"))
    told = user.run(["/bin/sh", "-c", f"cd {place} && git status --porcelain && git log --oneline | wc -l && git fsck --strict && sed -n '7p;150p' m"], cwd="/", env={**GIT})
    assert told.stdout.split() == ["4", "seven", "150!"]


def test_a_percent_sign_in_a_path_is_one(run, place):
    """Only what options follow in a URL is spelled with ``%25``."""
    for keep in ("50%25 off.db", "50% off"):
        run("--keep", place.parent / "state" / keep, "--", "touch", "new")
        assert (place.parent / "state" / keep).exists()
        assert run("--keep", place.parent / "state" / keep, "--", "ls").stdout.split() == ["a", "new"]
    assert sorted(os.listdir(place.parent / "state"))[:2] == ["50% off", "50%25 off.db"]
