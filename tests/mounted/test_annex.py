"""What is in ``.joinfs/``. SEMANTICS.md, What a mount tells of itself."""

import os
import time

import pytest

from tests.mounted.test_asked import as_user, asked, lower, seen_at_last

__all__ = ["asked", "lower"]


@pytest.fixture
def mnt(mount, upper, lower, user):
    """A join in which something was changed and tagged."""
    with mount(upper, lower) as mnt:
        as_user(user, "echo more >> a; rm b; setfattr -n user.colour -v red a d/c; setfattr -n user.n -v 7 d/c", mnt)
        yield mnt


def refused(user, script, place, words):
    done = user.run(["/bin/sh", "-c", f"cd {place} && {script}"], cwd="/", check=False)
    assert done.returncode != 0
    assert words in done.stderr, done.stderr


def test_it_is_there_and_in_no_listing(user, mnt):
    assert as_user(user, "ls -A; find . | grep joinfs | wc -l", mnt).split() == ["a", "d", "0"]
    assert as_user(user, "ls .joinfs", mnt).split() == ["ctl", "layers", "log", "query", "stats", "versions"]
    assert as_user(user, "tar cf - . | tar tf - | sort", mnt).split() == ["./", "./a", "./d/", "./d/c", "./d/e/", "./d/e/f"]


def test_each_store_by_itself(user, mnt, lower):
    assert as_user(user, "cd .joinfs/layers; cat 0/a 1/a; ls -A 0 1; ls", mnt).split() == [
        "a", "more", "a", "0:", ".wh.b", "a", "d", "1:", "a", "b", "d", "0", "1",
    ]  # fmt: skip
    refused(user, "cat .joinfs/layers/2/a", mnt, "No such file")
    assert as_user(user, f"cmp .joinfs/layers/1/b {lower}/b && diff -r .joinfs/layers/1 {lower} && echo same", mnt) == "same\n"


def test_what_each_store_has_at_a_path(user, mnt):
    assert as_user(user, "cd .joinfs/versions; ls; ls a b d d/c; cat a/0 a/1 b/1 d/e/f/1", mnt).split() == [
        "a", "b", "d", "a:", "0", "1", "b:", "1", "d:", "c", "e", "d/c:", "0", "1", "a", "more", "a", "b", "d/e/f",
    ]  # fmt: skip
    refused(user, "cat .joinfs/versions/b/0", mnt, "No such file")
    refused(user, "ls .joinfs/versions/none", mnt, "No such file")
    assert as_user(user, "cp .joinfs/versions/b/1 b && cat b", mnt) == "b\n"


def test_files_by_their_metadata(user, mnt):
    assert as_user(user, "cd .joinfs/query; ls colour=red colour=red/n=7 n=7 n=8; cat colour=red/a n=7/d%2Fc; ls", mnt).split() == [
        "colour=red:", "a", "d%2Fc", "colour=red/n=7:", "d%2Fc", "n=7:", "d%2Fc", "n=8:", "a", "more", "d/c",
    ]  # fmt: skip
    assert as_user(user, "readlink .joinfs/query/n=7/d%2Fc", mnt) == "../../../d/c\n"
    refused(user, "cat .joinfs/query/colour=blue/a", mnt, "No such file")
    refused(user, "ls .joinfs/query/colour", mnt, "No such file")


def test_figures_and_log(user, mnt):
    metrics = dict(line.rsplit(" ", 1) for line in as_user(user, "cat .joinfs/stats", mnt).splitlines() if not line.startswith("#"))
    assert float(metrics["joinfs_free_bytes"]) > 0
    asked = float(metrics['joinfs_requests_total{verb="getattr"}'])
    assert asked >= 1
    assert float(metrics['joinfs_request_seconds_total{verb="getattr"}']) > 0
    as_user(user, "cat a .joinfs/stats", mnt)
    assert float(dict(line.rsplit(" ", 1) for line in as_user(user, "cat .joinfs/stats", mnt).splitlines())['joinfs_requests_total{verb="getattr"}']) >= asked
    assert as_user(user, "cat .joinfs/log", mnt) == "" or "joinfs" in as_user(user, "cat .joinfs/log", mnt)


def test_orders(user, driver, mnt):
    as_user(user, "echo discard b > .joinfs/ctl; echo 'nonsense here' > .joinfs/ctl", mnt)
    seen_at_last("fusepy", user, "cat b", mnt, ["b"])
    end = time.monotonic() + 30
    while len(told := as_user(user, "cat .joinfs/ctl", mnt).splitlines()) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert any("discard b: done" in line for line in told)
    assert any("nonsense here: that is no order; there are flush, commit" in line for line in told)


def test_nothing_gets_in(user, mnt, upper, asked):
    for script in ("mkdir .joinfs/x", "touch .joinfs/x", "ln a .joinfs/a", "mv a .joinfs/a", "mv a .joinfs/layers/0/a", "rm .joinfs/stats", "rmdir .joinfs",
                   "mkdir .joinfs/layers/0/x", "rm .joinfs/layers/1/b", "ln -s a .joinfs/l"):  # fmt: skip
        refused(user, script, mnt, "not permitted" if user.uid is None else "ermi")
    refused(user, "mkdir .joinfs", mnt, "File exists")
    refused(user, "echo x >> .joinfs/layers/1/b", mnt, "")
    assert as_user(user, "touch .joinfs2 && mkdir .joinfsx && ls -A", mnt).split() == [".joinfs2", ".joinfsx", "a", "d"]
    assert ".joinfs/" not in asked("diff", mnt).stdout
    assert asked("flush", mnt).stderr == ""
    assert as_user(user, "cat .joinfs/layers/1/b", mnt) == "b\n"


def test_it_is_not_for_everybody(user, mnt):
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    other = type(user)(65533)
    for name in ("log", "ctl"):
        done = other.run(["cat", f"{mnt}/.joinfs/{name}"], check=False)
        assert "Permission denied" in done.stderr
    for name in ("layers", "versions/a", "query/colour=red", "layers/1/b", "query/colour=red/a"):
        assert "Permission denied" in other.run(["ls", "-l", f"{mnt}/.joinfs/{name}"], check=False).stderr
    assert "joinfs_uptime" in other.run(["cat", f"{mnt}/.joinfs/stats"]).stdout


def test_what_a_store_has_of_that_name_is_seen(user, mount, upper, lower):
    (lower / ".joinfs").mkdir()
    (lower / ".joinfs").chmod(0o777)
    (lower / ".joinfs" / "mine").write_text("mine\n")
    with mount(upper, lower) as mnt:
        assert as_user(user, "cat .joinfs/mine; ls -A", mnt).split() == ["mine", ".joinfs", "a", "b", "d"]
        assert as_user(user, "ls .joinfs; echo new > .joinfs/other; ls .joinfs; find .joinfs | sort", mnt).split() == [
            "mine", "mine", "other", ".joinfs", ".joinfs/mine", ".joinfs/other",
        ]  # fmt: skip
        assert user.joinfs("check", mnt).returncode == 0
