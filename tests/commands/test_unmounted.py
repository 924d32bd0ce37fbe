"""The commands on joins that are not mounted, run as a user runs them. SEMANTICS.md, Commands; Changes; Exporting."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

import joinfs
from joinfs.commands.parsing import GROUPS
from tests import terminals

JOINFS = [sys.executable, "-m", "joinfs"]
TIMEOUT = 60


@pytest.fixture
def place(tmp_path):
    """A directory with stores in it: ``low``, and changes to it in ``up.db``."""
    for name in ("low/d/e", "low/gone/deep", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "low" / "text").write_text("".join(f"line {number}\n" for number in range(30)))
    (tmp_path / "low" / "d" / "moved").write_text("moved\n")
    (tmp_path / "low" / "d" / "e" / "kept").write_text("kept\n")
    (tmp_path / "low" / "gone" / "deep" / "f").write_text("f\n")
    (tmp_path / "low" / "gone" / "g").write_text("no newline at the end")
    (tmp_path / "low" / "script").write_text("#!/bin/sh\n")
    (tmp_path / "low" / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "low" / "link").symlink_to("text")
    return tmp_path


@pytest.fixture
def run(place):
    """Call with the arguments of a command: answers how it went."""

    def run(*arguments, code=0, **options):
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT, "cwd": place, **options}
        done = subprocess.run([*JOINFS, *map(str, arguments)], check=False, **options)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in str(done.stderr)
        return done

    return run


@pytest.fixture
def changed(place):
    """The stores of a join in which much was changed, as arguments."""
    with joinfs.JoinedStore([joinfs.open_store(f"sqlite:{place}/up.db"), joinfs.open_store(place / "low")]) as join:
        join.from_bytes("text", b"".join(b"line %d\n" % number for number in range(30) if number != 7) + b"more\n")
        join.rename("d/", "dd/")
        join.rename("dd/moved", "dd/e/renamed")
        for key in ("gone/deep/f", "gone/deep/", "gone/g", "gone/"):
            join.delete(key)
        join.set_stat("script", mode=0o755)
        join.from_bytes("new dir/é\n", b"odd\n")
        join.from_bytes("empty", b"")
        join.from_bytes("binary", b"\0\1")
        join.update_metadata("link2", {}) if join.exists("link2") else None
        join.update_metadata("dd/e/kept", {"colour": "red"})
    return ["sqlite:up.db", "low"]


def tree(place):
    return {
        str(path.relative_to(place)): (
            path.lstat().st_mode, os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in sorted(place.rglob("*"))
    }  # fmt: skip


def joined_tree(place, arguments):
    """What a join shows, as ``tree`` has it: by ``joinfs get``."""
    target = place / "out" / f"tree{len(os.listdir(place / 'out'))}"
    subprocess.run([*JOINFS, "get", "-q", *arguments, "--", ".", str(target)], cwd=place, check=True, timeout=TIMEOUT)
    return tree(target)


# -------------------------------------------------------------------- changes


def test_diff_tells_each_change(run, changed):
    lines = run("diff", *changed).stdout.splitlines()
    assert lines == [
        "M  binary",
        "R  d/ -> dd/",
        "m  dd/e/kept  (metadata)",
        "R  d/moved -> dd/e/renamed",
        "A  empty",
        "D  gone/",
        "A  new dir/",
        "A  new dir/é\\n",
        "m  script  (mode)",
        "M  text",
    ]
    told = [json.loads(line) for line in run("diff", *changed, "--json").stdout.splitlines()]
    assert {"kind": "renamed", "key": "dd/e/renamed", "old": "d/moved", "size": 6, "old_size": 6} in told
    assert [change["key"] for change in told if change["kind"] == "deleted"] == ["gone/"]
    stat = run("diff", *changed, "--stat").stdout
    assert "binary  256 bytes -> 2 bytes" in stat
    assert stat.endswith("3 added, 2 attributes, 1 deleted, 2 modified, 2 renamed\n")


def test_diff_of_some_paths(run, changed):
    assert run("diff", *changed, "--", "text", "new dir").stdout.splitlines() == ["A  new dir/", "A  new dir/é\\n", "M  text"]
    assert run("diff", *changed, "--", "d").stdout.splitlines()[0] == "R  d/ -> dd/"
    assert run("diff", *changed, "--exit-code", "--", "text", code=1).stdout == "M  text\n"
    assert run("diff", *changed, "--exit-code", "--", "nothing").stdout == ""


@pytest.mark.parametrize("tool", ["git apply", "patch"])
def test_a_patch_makes_of_the_lower_store_what_is_seen(run, place, changed, need, tool):
    need(tool.split()[0])
    with joinfs.JoinedStore([joinfs.open_store(f"sqlite:{place}/up.db"), joinfs.open_store(place / "low")]) as join:
        join.from_bytes("binary", bytes(range(256)))  # which no patch of text can tell
    patch = run("diff", *changed, "--patch").stdout
    shutil.copytree(place / "low", place / "copy", symlinks=True)
    command = ["git", "apply", "-"] if tool == "git apply" else ["patch", "-p1", "--quiet"]
    subprocess.run(command, input=patch, text=True, cwd=place / "copy", check=True, timeout=TIMEOUT)
    expected = {name: about for name, about in joined_tree(place, changed).items() if about[1] is not None}
    assert {name: about for name, about in tree(place / "copy").items() if about[1] is not None} == expected


def test_commit_does_it_to_the_lower_store(run, place, changed):
    before, expected = tree(place / "low"), joined_tree(place, changed)
    assert "10 changes would be committed" in run("commit", *changed, "--dry-run").stderr
    assert tree(place / "low") == before
    run("commit", *changed)
    assert tree(place / "low") == expected
    assert os.getxattr(place / "low" / "dd" / "e" / "kept", "user.colour") == b"red"
    assert run("diff", *changed).stdout == ""
    assert joined_tree(place, changed) == expected


def test_commit_of_some_paths_leaves_the_rest(run, place, changed):
    expected = joined_tree(place, changed)
    run("commit", *changed, "--", "text", "new dir")
    assert tree(place / "low")["new dir/é\n"][1] == b"odd\n"
    assert not (place / "low" / "dd").exists()
    assert joined_tree(place, changed) == expected
    assert "text" not in run("diff", *changed).stdout


def test_a_conflict_is_told_and_commits_nothing(run, place, changed):
    time.sleep(0.02)  # the clock of files is that coarse
    (place / "low" / "text").write_text("others were here\n")
    (place / "low" / "gone" / "g").write_text("and here\n")
    before = tree(place / "low")
    done = run("commit", *changed, code=1)
    assert done.stderr.splitlines() == [
        "joinfs: gone/ was changed below since it was changed here",
        "joinfs: text was changed below since it was changed here",
        "joinfs: nothing was committed because of 2 conflicts; --force takes what is here",
    ]
    assert tree(place / "low") == before
    expected = joined_tree(place, changed)
    run("commit", *changed, "--force")
    assert tree(place / "low") == expected


def test_what_cannot_be_written_to_is_refused(run, place, changed):
    with zipfile.ZipFile(place / "low.zip", "w") as archive:
        archive.writestr("a", "a")
    with joinfs.JoinedStore([joinfs.open_store(f"sqlite:{place}/other.db"), joinfs.open_store(place / "low.zip")]) as join:
        join.from_bytes("a", b"b")
    assert "takes no writes" in run("commit", "sqlite:other.db", "low.zip", code=1).stderr
    assert "stands alone" in run("diff", "low", code=1).stderr
    assert "no store is called '7'; there are 0 (sqlite:up.db), 1 (dir:low)" in run("commit", *changed, "--into", "7", code=1).stderr


def test_discard_takes_changes_back(run, place, changed):
    assert run("discard", *changed, "--", "text").stdout == "M  text\n"
    assert run("cat", *changed, "--", "text").stdout == (place / "low" / "text").read_text()
    run("discard", *changed, "-q", "--", "gone", "dd/e/renamed")
    assert sorted(run("ls", *changed, "--", "gone", "dd").stdout.split()) == ["deep/", "e/", "g", "moved"]
    assert "nothing is changed at text" in run("discard", *changed, "--", "text", code=1).stderr
    assert "say which paths" in run("discard", *changed, code=2).stderr
    run("discard", *changed, "--all")
    assert run("diff", *changed).stdout == ""
    assert joined_tree(place, changed) == tree(place / "low")


@pytest.mark.parametrize("name", ["layer.tar", "layer.tar.gz", "layer.zip"])
def test_an_export_is_a_layer(run, place, changed, name):
    run("export", *changed, "--output", name)
    assert joined_tree(place, [name, "low"]) == joined_tree(place, changed)
    run("export", *changed, "--all", "-o", f"all-{name}")
    assert joined_tree(place, [f"all-{name}"]) == joined_tree(place, changed)
    assert not list(place.glob("*.part-*"))


def test_an_export_is_a_layer_to_the_tools_of_images(run, place, changed, need):
    need("umoci")
    if os.geteuid() != 0:
        pytest.skip("umoci gives files their owners, which needs root")

    def umoci(*arguments):
        subprocess.run(["umoci", *arguments], cwd=place, check=True, timeout=TIMEOUT, capture_output=True)

    with tarfile.open(place / "base.tar", "w") as archive:
        archive.add(place / "low", ".")
    run("export", *changed, "-o", "layer.tar")
    umoci("init", "--layout", "image")
    umoci("new", "--image", "image:tag")
    umoci("raw", "add-layer", "--image", "image:tag", "base.tar")
    umoci("raw", "add-layer", "--image", "image:tag", "layer.tar")
    umoci("unpack", "--image", "image:tag", "bundle")
    assert tree(place / "bundle" / "rootfs") == joined_tree(place, changed)
    assert joined_tree(place, ["oci:image:tag"]) == joined_tree(place, changed)


def test_an_export_goes_to_a_pipe_and_is_the_same_each_time(run, place, changed):
    first = run("export", *changed, "-o", "-", text=False).stdout
    assert first == run("export", *changed, "-o", "-", text=False).stdout
    (place / "piped.tar").write_bytes(first)
    with tarfile.open(place / "piped.tar") as archive:
        assert "text" in archive.getnames()
    assert "say what kind" in run("export", *changed, "-o", "layer.rar", code=2).stderr


# -------------------------------------------------------------------- keys


def test_files_go_in_and_out(run, place):
    stores = ["sqlite:s.db"]
    run("put", *stores, "--", "low", "low/text", "/")
    assert run("ls", *stores).stdout.split() == ["low/", "text"]
    run("put", *stores, "--", "low/script", "bin/script")
    run("put", *stores, "--", "-", "note", input="typed\n")
    assert run("cat", *stores, "--", "note", "text").stdout == "typed\n" + (place / "low" / "text").read_text()
    run("get", *stores, "--", "low", "note", "out")
    assert tree(place / "out" / "low") == tree(place / "low")
    run("cp", "-r", *stores, "--", "low", "low2")
    run("cp", *stores, "--", "note", "text", "low2")
    run("rm", "-r", *stores, "--", "low", "text")
    assert run("ls", "-R", *stores).stdout.splitlines()[:3] == ["bin/", "bin/script", "low2/"]
    assert [json.loads(line)["key"] for line in run("ls", *stores, "--json").stdout.splitlines()] == ["bin/", "low2/", "note"]
    assert run("ls", "-l", *stores, "--", "bin").stdout.startswith("-rw")


def test_what_is_not_right_with_keys_is_one_sentence(run):
    stores = ["sqlite:s.db"]
    run("put", *stores, "--", "low", "d")
    for arguments, code, words in (
        (["cat", *stores, "--", "none"], 1, "there is no 'none'"),
        (["cat", *stores, "--", "d"], 1, "is a directory"),
        (["cat", *stores], 2, "say which keys"),
        (["cat", *stores, "--", "a/../b"], 2, "cannot be part of a key"),
        (["rm", *stores, "--", "d"], 1, "with -r"),
        (["rm", "-r", *stores, "--", "/"], 2, "say which keys"),
        (["cp", *stores, "--", "d", "e"], 1, "with -r"),
        (["cp", "-r", *stores, "--", "d", "d/x"], 1, "into itself"),
        (["cp", *stores, "--", "d"], 2, "where to"),
        (["put", *stores, "--", "none", "x"], 1, "there is no file none"),
        (["put", *stores, "--", "low", "low", "x"], 1, "only one thing"),
        (["get", *stores, "--", "d"], 2, "where to"),
        (["query", *stores, "--", "x"], 2, "no field=value"),
        (["ls"], 2, "say which stores"),
        (["ls", *stores, "--config", "x"], 2, "not both"),
        (["umount", "x", "--", "y"], 2, "takes nothing after"),
        (["status", "low"], 1, "in no mount"),
    ):
        done = run(*arguments, code=code)
        assert words in done.stderr, arguments
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert run("rm", "-f", *stores, "--", "none").stderr == ""


def test_query_finds_by_metadata(run, place):
    with joinfs.open_store(f"sqlite:{place}/s.db") as store:
        for number in range(4):
            store.set(f"runs/{number}", (io.BytesIO(), {"good": number % 2 == 0, "author": "mel", "n": str(number)}))
    assert run("query", "sqlite:s.db", "--", "author=mel", "good=true").stdout.split() == ["runs/0", "runs/2"]
    (found,) = run("query", "sqlite:s.db", "--json", "--", 'n="3"').stdout.splitlines()
    assert json.loads(found) == {"key": "runs/3", "metadata": {"good": False, "author": "mel", "n": "3"}}


def test_which_tells_who_has_it_and_what_hides_it(run, changed):
    lines = run("which", *changed, "--", "text", "gone/g", "dd/e/kept", "dd/e").stdout.splitlines()
    assert lines == [
        "0  sqlite:up.db  text  (file, 228 bytes)",
        "1  dir:low  text  (file, 230 bytes)  hidden by 0: it has a file there",
        "1  dir:low  gone/g  (file, 21 bytes)  hidden by 0: it has a whiteout of 'g', or of a directory that it is in",
        "0  sqlite:up.db  dd/e/kept  (file, 5 bytes)",
        "1  dir:low  d/e/kept  (file, 5 bytes)  hidden by 0: it has a file there",
        "0  sqlite:up.db  dd/e/  (directory)",
        "1  dir:low  d/e/  (directory)",
    ]
    told = json.loads(run("which", *changed, "--json", "--", "text").stdout.splitlines()[1])
    assert (told["layer"], told["hidden_by"], told["size"]) == (1, 0, 230)
    assert "none of the stores has 'nothing'" in run("which", *changed, "--", "nothing", code=1).stderr


# -------------------------------------------------------------------- configuration


def test_stores_come_from_a_file(run, place):
    (place / "sub").mkdir()
    (place / "sub" / "join.toml").write_text(
        '[[store]]\nurl = "env.UPPER"\nname = "changes"\n[[store]]\nurl = "../low"\nread_only = true\nprefix = "d"\n'
    )
    environment = {**os.environ, "UPPER": f"sqlite:{place}/e.db"}
    run("put", "--config", "sub/join.toml", "--", "low/text", "t", env=environment)
    assert run("ls", "--config", "sub/join.toml", env=environment).stdout.split() == ["e/", "moved", "t"]
    assert "0  changes  t" in run("which", "--config", "sub/join.toml", "--", "t", env=environment).stdout
    assert "no variable UPPER" in run("ls", "--config", "sub/join.toml", code=2).stderr


@pytest.mark.parametrize(("text", "words"), [
    ("[[store]\n", "is not TOML"),
    ('[[store]]\nurll = "x"\n', "did you mean 'url'"),
    ('stores = ["x"]\n', "did you mean 'store'"),
    ('[[store]]\nname = "x"\n', "needs a url"),
    ('driver = "none"\n', "there are auto"),
    ('options = { attr_timeout = -1 }\n[[store]]\nurl = "low"\n', "seconds"),
    ("mountpoint = 7\n", "in quotes"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_sentence(run, place, text, words):
    (place / "join.toml").write_text(text)
    done = run("ls", "--config", "join.toml", code=2)
    assert words in done.stderr
    assert done.stderr.startswith("joinfs: join.toml")
    assert len(done.stderr.splitlines()) == 1


# -------------------------------------------------------------------- terminals


def on_terminal(arguments, place, until=b"", interrupt=False, environment=None):
    """Run a command on a terminal; answer what it showed, and its exit code."""

    def react(shown, _, process):
        nonlocal interrupt
        if interrupt and until in shown:
            interrupt = False
            process.send_signal(signal.SIGINT)

    return terminals.on_terminal([*JOINFS, *arguments], react, cwd=place, env=environment)


def test_colours_are_for_terminals_that_want_them(place, changed):
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    shown, code = on_terminal(["diff", *changed], place, environment=plain)
    assert code == 0
    assert "\033[33mM\033[0m  text" in shown
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown, _ = on_terminal(["diff", *changed], place, environment={**plain, **more})
        assert "\033[" not in shown


@pytest.fixture
def large(place):
    """Stores whose commit takes some seconds."""
    with sqlite3.connect(place / "low.db"):
        pass
    os.unlink(place / "low.db")
    with joinfs.JoinedStore([joinfs.open_store(f"sqlite:{place}/big.db"), joinfs.open_store(f"sqlite:{place}/low.db")]) as join, join.transaction("x"):
        for number in range(4000):
            join.from_bytes(f"d{number % 20}/{number}", b"x" * 20000)
    return ["sqlite:big.db", "sqlite:low.db"]


def test_long_work_shows_a_bar_and_can_be_interrupted_without_harm(run, place, large):
    environment = {**os.environ, "TERM": "xterm"}
    shown, code = on_terminal(["commit", *large], place, until=b"committing", interrupt=True, environment=environment)
    assert "committing" in shown
    assert code == 130, shown
    assert "Traceback" not in shown
    assert run("ls", "sqlite:low.db").stdout == ""
    assert len(run("diff", *large).stdout.splitlines()) == 4020
    shown, code = on_terminal(["commit", "-q", *large], place, environment=environment)
    assert code == 0
    assert "committing" not in shown
    assert run("diff", *large).stdout == ""
    assert "nothing is wrong" in run("check", *large).stderr


# -------------------------------------------------------------------- the command itself


def test_every_command_says_how_it_is_used(run):
    listed = run("--help").stdout
    for name, (_, sentence) in ((name, about) for group in GROUPS.values() for name, about in group.items()):
        assert sentence in listed
        told = run(name, "--help").stdout
        assert "example:\n  joinfs " in told
        assert f"joinfs {name}" in told.partition("example:")[2]


def test_who_stops_reading_is_no_error(place, changed):
    command = f"{' '.join(JOINFS)} diff sqlite:up.db low | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=place, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert (done.stdout, done.stderr) == ("M  binary\n", "")
