"""Completion, and the manual page. SEMANTICS.md, Commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import joinfs
from joinfs.cli import main
from joinfs.commands.manual import page as manual
from joinfs.commands.parsing import GROUPS, filled, parser
from tests.conftest import lacking

CHECKOUT = Path(joinfs.__file__).parent.parent
PAGE = Path(joinfs.__file__).with_name("joinfs.1")
# What bash does when TAB is pressed after some words.
PRESSED = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE='{line}' COMP_POINT={point}
_shtab_joinfs
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What bash is to read."""
    done = subprocess.run([sys.executable, "-m", "joinfs", "completion", "bash"], capture_output=True, text=True, check=True, timeout=60)
    path = tmp_path_factory.mktemp("bash") / "joinfs"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def offered(script, tmp_path):
    """Call with a line: answers what bash offers for its last word."""

    def offered(line):
        words = [*line.split(), *([""] if line.endswith(" ") else [])]
        quoted = " ".join(f"'{word}'" for word in words)
        pressed = PRESSED.format(script=script, words=quoted, last=len(words) - 1, line=line, point=len(line))
        done = subprocess.run(["bash", "--norc", "-c", pressed], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout.split()

    return offered


def test_commands_options_and_files_are_completed(offered, tmp_path):
    (tmp_path / "data.zip").touch()
    (tmp_path / "dir").mkdir()
    assert offered("joinfs dis") == ["discard"]
    assert set(offered("joinfs s")) == {"status", "snapshot", "stores"}
    assert set(offered("joinfs mount --l")) == {"--log-file", "--log-level"}
    assert set(offered("joinfs mount --driver ")) >= {"auto", "devfuse", "fusepy"}
    assert set(offered("joinfs mount d")) == {"data.zip", "dir"}
    assert offered("joinfs umount d") == ["dir"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_each_shell_gets_what_it_can_read(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    for name in (name for group in GROUPS.values() for name in group):
        assert name in told
    if shutil.which(shell):
        (tmp_path / "script").write_text(told)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=60)


def test_without_shtab_it_is_said_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == "joinfs: joinfs completion needs shtab; install it with: pip install 'joinfs[completion]'\n"


def test_the_page_that_is_installed_says_what_help_says():
    assert PAGE.read_text() == manual(), "make it anew: joinfs manual > joinfs/joinfs.1"
    page = PAGE.read_text().replace("\\-", "-").replace("\\(aq", "'")
    for own in filled(parser()).values():
        for action in own._actions:
            if action.help and action.help != "==SUPPRESS==" and action.dest != "help":
                assert action.help in page
        assert own.description.rstrip(".") in page


def test_man_finds_nothing_wrong_with_it():
    if not shutil.which("groff"):
        lacking("groff (apt-get install groff)")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", PAGE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


def test_it_comes_with_the_package(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, CHECKOUT], check=True, timeout=110, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("joinfs-*.whl")
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True, timeout=60).stdout
    for name in ("share/man/man1/joinfs.1", "joinfs/SEMANTICS.md", "joinfs/systemd.service", "joinfs/py.typed"):
        assert name in listed
