"""What the first store changes: told, committed and discarded; against a plain store to which the same was done.

SEMANTICS.md, Changes; Committing; Discarding.
"""

import io
import os
import random

import pytest

import joinfs
from joinfs.errors import Conflict, JoinfsError, ReadOnly, StoreError, Unsupported, UsageError
from joinfs.joined.commit import commit
from joinfs.joined.difference import Difference
from joinfs.joined.discard import discard
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.trees import below, copy_tree
from joinfs.stores.value import Stat

NAMES = ("a", "b", "c", "d", "e")
KINDS = ("directory", "sqlite", "memory")


def make(kind, place, name):
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite":
        return SQLiteStore(str(place / f"{name}.db"))
    (place / name).mkdir()
    return DirectoryStore(str(place / name))


def fill(store):
    """A tree with hard links, symlinks, metadata and an empty directory."""
    for directory in ("d/", "d/e/", "d/e/c/", "e/", "empty/"):
        store.put(directory, Stat(0o040750, mtime=10**18))
    for key in ("a", "b", "d/a", "d/b", "d/e/a", "d/e/c/b", "e/a", "e/b"):
        store.put(key, Stat(0o100640, mtime=10**18), io.BytesIO(key.encode() * 50), {"from": "below"})
    store.put("c", Stat(0o120777, mtime=10**18), io.BytesIO(b"a"))
    if store.capabilities.hard_links:
        store.link("b", "d/c")
        store.link("b", "e/c")
    return store


def seen(store):
    """All that is in a store: what a change could change."""
    found, names = {}, {}
    for key, stat in below(store, ""):
        names.setdefault(stat.file_id, []).append(key)
        data = None if stat.is_directory else store.to_bytes(key)
        mtime = None if stat.is_directory else stat.mtime
        found[key] = (stat.mode, stat.uid, stat.gid, mtime, data, store.get_metadata(key))
    return found, sorted(sorted(keys) for keys in names.values() if len(keys) > 1 and not keys[0].endswith("/"))


def key_of(dice, store, directory):
    """Something that is there, or that could be."""
    there = [key for key, stat in below(store, "") if stat.is_directory == directory]
    if there and dice.random() < 0.7:
        return dice.choice(there)
    parents = ["", *(key for key, stat in below(store, "") if stat.is_directory)]
    return dice.choice(parents) + dice.choice(NAMES) + ("/" if directory else "")


def changed(dice, store, others):
    """Do something to a store, and the same to others; which nobody can may fail, with all alike."""
    directory = dice.random() < 0.4
    key, other = key_of(dice, store, directory), key_of(dice, store, directory)
    number = dice.randrange(10**9)
    verbs = {
        "write": lambda s: s.put(key, Stat(0o100600, mtime=number), io.BytesIO(str(number).encode()), {"n": number}),
        "data": lambda s: (s.set_data(key, io.BytesIO(b"x" * (number % 700))), s.set_stat(key, mtime=number)),
        "make": lambda s: s.put(key, Stat(0o040700)),
        "delete": lambda s: s.delete(key),
        "tree": lambda s: [s.delete(k) for k in [*reversed([k for k, _ in below(s, key)]), key]],
        "rename": lambda s: s.rename(key, other),
        "link": lambda s: s.link(key, other),
        "exchange": lambda s: s.exchange(key, other),
        "mode": lambda s: s.set_stat(key, mode=0o100000 | number % 0o777),
        "times": lambda s: s.set_stat(key, mtime=number),
        "metadata": lambda s: s.update_metadata(key, {"m": number}),
        "symlink": lambda s: s.put(key, Stat(0o120777, mtime=number), io.BytesIO(b"a")),
    }
    file_only = {"write", "data", "link", "times", "symlink"}
    verb = dice.choice([name for name in verbs if not (directory and name in file_only) and (directory or name not in {"make", "tree"})])
    if verb in {"mode", "metadata"} and not directory and store.exists(key) and store.stat(key).is_symlink:
        return  # directories of the host keep neither
    outcomes = []
    for one in (store, *others):
        try:
            verbs[verb](one)
            outcomes.append(None)
        except (KeyError, JoinfsError) as error:
            outcomes.append(type(error))
        if outcomes == [Unsupported]:  # by the first store, which is of another kind
            return
    assert len({outcome is None for outcome in outcomes}) == 1, (verb, key, other, outcomes)


@pytest.fixture(params=[(upper, lower) for upper in KINDS for lower in KINDS], ids="-".join)
def kinds(request):
    return request.param


@pytest.mark.parametrize("seed", range(12))
def test_a_commit_makes_of_the_lower_store_what_was_seen(kinds, tmp_path, seed):
    dice = random.Random(seed)
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join, make(kinds[0], tmp_path, "plain") as plain:
        fill(lower)
        fill(plain)
        for _ in range(3):
            for _ in range(dice.randrange(1, 30)):
                changed(dice, join, [plain])
            before = seen(join)
            assert before == seen(plain)
            commit(join)
            assert seen(lower) == before
            assert seen(join) == before
            assert list(Difference(join).changes()) == []
            assert list(upper.list("")) == []
            assert list(join.check()) == []


@pytest.mark.parametrize("seed", range(12))
def test_discarding_shows_what_is_below_again(kinds, tmp_path, seed):
    dice = random.Random(seed)
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        before = seen(join)
        for _ in range(dice.randrange(1, 40)):
            changed(dice, join, [])
        # One after the other, as far as they can be had back alone; then the rest.
        for change in list(Difference(join).changes())[:3]:
            try:
                gone = discard(join, [change.key])
            except UsageError:
                continue
            assert change.key in [one.key for one in gone] or seen(join) == before
        assert list(join.check()) == []
        discard(join)
        assert seen(join) == seen(lower) == before


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_committed_and_discarded(kinds, tmp_path, seed):
    """Nothing that is seen changes by committing a part; and whatever was done before, the rest can be committed then."""
    dice = random.Random(seed)
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        for _ in range(4):
            for _ in range(dice.randrange(1, 15)):
                changed(dice, join, [])
            for _ in range(2):
                changes = list(Difference(join).changes())
                if not changes:
                    continue
                chosen = [change.key for change in dice.sample(changes, min(2, len(changes)))]
                before = seen(join)
                below_before = seen(lower)
                if dice.random() < 0.6:
                    try:
                        commit(join, paths=chosen)
                    except UsageError:  # it hangs together with others
                        assert seen(lower) == below_before
                    assert seen(join) == before
                    continue
                try:
                    discard(join, chosen)
                except (UsageError, StoreError):  # what is to be back has no place
                    assert seen(join) == before
                assert seen(lower) == below_before
                assert list(join.check()) == []
        before = seen(join)
        commit(join, force=True)
        assert seen(join) == seen(lower) == before


@pytest.mark.parametrize("whiteouts", ["oci", "overlay"])
def test_a_part_of_what_was_made_anew(tmp_path, whiteouts):
    if whiteouts == "overlay" and os.geteuid() != 0:
        pytest.skip("overlayfs's whiteouts are devices")
    upper, lower = make("directory", tmp_path, "upper"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower], whiteouts=whiteouts) as join:
        lower.from_bytes("d/n", b"old")
        lower.from_bytes("d/f", b"old")
        for key in ("d/n", "d/f", "d/"):
            join.delete(key)
        join.from_bytes("d/n", b"new")
        commit(join, paths=["d/n"])
        assert join.to_bytes("d/n") == lower.to_bytes("d/n") == b"new"
        assert not join.exists("d/f")
        discard(join, ["d"])
        assert join.to_bytes("d/f") == b"old"
        assert list(Difference(join).changes()) == []


def test_swapped_files_one_by_one(kinds, tmp_path):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        lower.from_bytes("a", b"a")
        lower.from_bytes("b", b"b")
        join.exchange("a", "b")
        commit(join, paths=["a"])
        assert (join.to_bytes("a"), join.to_bytes("b")) == (b"b", b"a")
        discard(join, ["b"])
        assert (join.to_bytes("a"), join.to_bytes("b")) == (b"b", b"b")
        commit(join)
        assert (lower.to_bytes("a"), lower.to_bytes("b")) == (b"b", b"b")


@pytest.mark.parametrize("what", ["hard links", "a renamed file", "in a renamed directory", "another kind"])
def test_what_hangs_together_is_committed_only_with_everything(tmp_path, what):
    upper, lower = make("sqlite", tmp_path, "upper"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        if what == "hard links":
            join.from_bytes("e/c", b"NEW")
            chosen, words = "d", "further names"
        elif what == "a renamed file":
            join.rename("a", "x")
            chosen, words = "x", "was renamed"
        elif what == "in a renamed directory":
            join.rename("d/", "moved/")
            join.from_bytes("moved/a", b"NEW")
            chosen, words = "moved/a", "directory that was renamed|was renamed"
        else:
            join.delete("a")
            join.from_bytes("a/in", b"1")
            chosen, words = "a", "another kind"
        before, below_before = seen(join), seen(lower)
        with pytest.raises(UsageError, match=words):
            commit(join, paths=[chosen])
        assert (seen(join), seen(lower)) == (before, below_before)
        commit(join)
        assert seen(lower) == before


def test_discarding_one_of_several_names_takes_all_back(kinds, tmp_path):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        before = seen(join)
        join.from_bytes("e/c", b"NEW")
        assert {change.key for change in discard(join, ["d"])} == {"b", "d/c", "e/c"}
        assert seen(join) == before


def test_an_interruption_when_the_lower_store_has_it_finishes_it(tmp_path, monkeypatch):
    upper, lower = make("sqlite", tmp_path, "upper"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        join.rename("d/", "moved/")
        join.from_bytes("moved/new", b"1")
        before = seen(join)
        monkeypatch.setattr("joinfs.stores.progress.Work.__exit__", cut_off)
        with pytest.raises(KeyboardInterrupt):
            commit(join)
        monkeypatch.undo()
        assert seen(join) == seen(lower) == before
        assert commit(join) == []
        assert seen(join) == seen(lower) == before


def test_overlay_marks_stay_when_a_directory_is_put_again(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("trusted attributes are root's")
    upper, lower = make("directory", tmp_path, "upper"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower], whiteouts="overlay") as join:
        lower.from_bytes("d/f", b"f")
        join.rename("d/", "x/")
        join.put("x/", Stat(0o040700))
        assert join.to_bytes("x/f") == b"f"


def test_a_commit_drops_none_of_the_locks_of_sqlite(tmp_path):
    """Whoever opens and closes a database's file besides takes SQLite's own locks away."""
    from joinfs.mountpoint import locked

    with make("sqlite", tmp_path, "upper") as upper:
        upper.from_bytes("a", b"1")
        upper.to_bytes("a")

        def locks():
            with open("/proc/locks") as file:
                return sorted(line.split()[5:] for line in file if f" {os.getpid()} " in line and "POSIX" in line)

        before = locks()
        assert before
        with locked(upper), pytest.raises(joinfs.errors.StoreLocked), locked(upper):
            pass
        with locked(upper):
            pass
        assert locks() == before


def test_a_commit_goes_into_a_store_further_down(tmp_path):
    upper, middle, lower = MemoryStore(), make("directory", tmp_path, "middle"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, middle, lower]) as join:
        fill(lower)
        middle.from_bytes("m", b"middle")
        join.from_bytes("a", b"new")
        join.delete("b")
        commit(join, lower)
        assert lower.to_bytes("a") == b"new"
        assert not lower.exists("b")
        middle.put("e/", Stat(0o040700))
        join.set_stat("e/", mtime=1)
        join.update_metadata("e/", {"x": 1})
        with pytest.raises(Conflict, match="'e/' is decided by a store between"):
            commit(join, lower)
        discard(join)
        join.from_bytes("m", b"hidden")
        with pytest.raises(Conflict, match="store between"):
            commit(join, lower)
        assert join.to_bytes("m") == b"hidden"
        assert not lower.exists("m")


def test_deleting_is_committed_as_a_whiteout_if_a_store_below_has_it(tmp_path):
    upper, middle, lower = MemoryStore(), make("directory", tmp_path, "middle"), make("directory", tmp_path, "lower")
    with joinfs.JoinedStore([upper, middle, lower]) as join:
        fill(lower)
        join.delete("a")
        commit(join, middle)
        assert not join.exists("a")
        assert (tmp_path / "middle" / ".wh.a").exists()
        assert lower.exists("a")


@pytest.mark.parametrize("how", ["mode", "deleted"])
def test_what_others_did_to_a_file_that_was_changed_here_is_a_conflict(kinds, tmp_path, how):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        join.from_bytes("a", b"mine")
        if how == "mode":
            lower.set_stat("a", mode=0o100600)
        else:
            lower.delete("a")
        with pytest.raises(Conflict, match="'a' was changed"):
            commit(join)
        commit(join, force=True)
        assert lower.to_bytes("a") == b"mine"


@pytest.mark.parametrize("how", ["data", "delete"])
def test_what_others_changed_below_is_not_written_over(kinds, tmp_path, how):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        if how == "data":
            join.update_metadata("a", {"x": 1})
        else:
            join.delete("a")
        join.from_bytes("d/a", b"not in the way")
        lower.set_stat("a", mtime=lower.stat("a").mtime + 1)
        lower.from_bytes("a", b"others")
        with pytest.raises(Conflict, match="'a' was changed below") as told:
            commit(join)
        assert list(told.value.reasons) == ["a"]
        assert lower.to_bytes("a") == b"others"
        assert lower.to_bytes("d/a") == b"d/a" * 50
        commit(join, paths=["d"])
        assert lower.to_bytes("d/a") == b"not in the way"
        commit(join, force=True)
        assert seen(lower) == seen(join)
        assert lower.exists("a") == (how == "data")


def test_a_commit_that_fails_changes_nothing(kinds, tmp_path, monkeypatch):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    with joinfs.JoinedStore([upper, lower]) as join:
        fill(lower)
        below_before = seen(lower)
        join.rename("d/", "moved/")
        join.from_bytes("z", b"last")
        before = seen(join)
        real = lower.put

        def full(key, *arguments, **more):
            if key == "z":
                raise joinfs.errors.OutOfSpace("no room for z")
            return real(key, *arguments, **more)

        monkeypatch.setattr(lower, "put", full)
        with pytest.raises(joinfs.errors.OutOfSpace):
            commit(join)
        monkeypatch.undo()
        assert seen(lower) == below_before
        assert seen(join) == before
        commit(join)
        assert seen(lower) == before


@pytest.mark.parametrize("how", ["before the lower store has it", "after"])
def test_a_commit_that_was_cut_off_is_finished_or_forgotten(kinds, tmp_path, monkeypatch, how):
    upper, lower = make(kinds[0], tmp_path, "upper"), make(kinds[1], tmp_path, "lower")
    if not (upper.capabilities.persistent and lower.capabilities.persistent):
        pytest.skip("nothing of it is there after a cut")
    with lower:
        fill(lower)
        with joinfs.JoinedStore([upper, lower]) as join:
            join.rename("d/", "moved/")
            join.from_bytes("moved/a", b"new")
            before = seen(join)
            place = "discard_everything" if how == "after" else "_Replay.run"
            monkeypatch.setattr(f"joinfs.joined.commit.{place}", cut_off)
            monkeypatch.setattr("joinfs.joined.commit.forget_note", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                commit(join)
            monkeypatch.undo()
            lower.disconnect()
        with lower, joinfs.JoinedStore([upper, lower]) as join:
            assert seen(join) == before
            assert bool(list(Difference(join).changes())) == (how != "after")
            commit(join)
            assert seen(lower) == before


def cut_off(*arguments):
    raise KeyboardInterrupt


def test_bad_input_is_told():
    with joinfs.JoinedStore([MemoryStore()]) as join, pytest.raises(UsageError, match="stands alone"):
        commit(join)
    upper, lower = MemoryStore(), joinfs.ReadOnlyStore(MemoryStore())
    with joinfs.JoinedStore([upper, lower]) as join:
        join.from_bytes("a", b"1")
        with pytest.raises(ReadOnly, match="takes no writes"):
            commit(join)
        with pytest.raises(UsageError, match="none of the stores below"):
            commit(join, upper)


def test_copying_a_tree_copies_all_of_it(kinds, tmp_path):
    with make(kinds[0], tmp_path, "one") as one, make(kinds[1], tmp_path, "other") as other:
        fill(one)
        copy_tree(one, "", other, "copy/")
        with joinfs.PrefixStore(other, "copy") as copied:
            assert seen(copied) == seen(one)
