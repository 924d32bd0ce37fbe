"""Hard links of lower stores, which stay one file when it is changed. SEMANTICS.md, Hard links."""

import io
import random

import pytest

from joinfs.joined.links import DIRECTORY
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.mapping import MappingStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat

GROUPS = [["a", "b"], ["c", "d/c", "d/e/c"], ["d/f", "d/g", "h/f", "h/g"], ["alone"]]


def put(store, key, data):
    store.set(key, (io.BytesIO(data), {}))


def filled(lower):
    for number, keys in enumerate(GROUPS):
        put(lower, keys[0], b"lower %d" % number)
        for key in keys[1:]:
            lower.link(keys[0], key)
    return lower


@pytest.fixture(params=["memory", "directory", "sqlite"])
def lower(request, tmp_path):
    (tmp_path / "lower").mkdir()
    makers = {"memory": MemoryStore, "directory": lambda: DirectoryStore(tmp_path / "lower"), "sqlite": lambda: SQLiteStore(tmp_path / "l.db")}
    store = makers[request.param]()
    with store:
        filled(store)
    yield store
    store.connect()
    assert [{store.to_bytes(key) for key in keys} for keys in GROUPS] == [{b"lower %d" % number} for number in range(len(GROUPS))]
    store.disconnect()


@pytest.fixture(params=["memory", "directory", "sqlite"])
def upper(request, tmp_path):
    (tmp_path / "upper").mkdir()
    makers = {"memory": MemoryStore, "directory": lambda: DirectoryStore(tmp_path / "upper"), "sqlite": lambda: SQLiteStore(tmp_path / "u.db")}
    return makers[request.param]()


@pytest.fixture
def join(upper, lower):
    with JoinedStore([upper, lower]) as join:
        yield join


def copies(join):
    return [name for name, _ in join.layers[0].list(DIRECTORY)] if join.layers[0].exists(DIRECTORY) else []


def test_what_is_written_through_one_key_shows_at_all(join):
    number = join.stat("c").file_id
    join.set_data("d/c", io.BytesIO(b"changed"))
    assert [join.to_bytes(key) for key in GROUPS[1]] == [b"changed"] * 3
    join.set_stat("c", mode=0o600)
    join.update_metadata("d/e/c", {"colour": "red"})
    for key in GROUPS[1]:
        stat = join.stat(key)
        assert (stat.mode & 0o7777, stat.nlink, stat.file_id) == (0o600, 3, number)
        assert join.get_metadata(key) == {"colour": "red"}
        assert join.read(key, 0, 100) == b"changed"
    assert join.lookup("a").nlink == 2
    assert {name: stat.nlink for name, stat in join.list("")} | {"d": 0, "h": 0} == {"a": 2, "b": 2, "c": 3, "d": 0, "h": 0, "alone": 1}
    assert list(join.query_keys(colour="red")) == sorted(GROUPS[1])


def test_nothing_of_it_is_a_key(join):
    join.set_data("a", io.BytesIO(b"changed"))
    assert len(copies(join)) == 1
    assert {name for name, _ in join.list("")} == {"a", "b", "c", "d", "h", "alone"}
    assert not join.exists(DIRECTORY)
    assert list(join.check()) == []


def test_names_that_are_deleted_are_not_counted(join):
    join.delete("c")
    assert {join.stat(key).nlink for key in ("d/c", "d/e/c")} == {2}
    join.set_data("d/c", io.BytesIO(b"changed"))
    assert {join.stat(key).nlink for key in ("d/c", "d/e/c")} == {2}
    join.delete("d/c")
    assert (join.stat("d/e/c").nlink, join.to_bytes("d/e/c")) == (1, b"changed")
    join.delete("d/e/c")
    assert copies(join) == []


def test_a_file_of_that_number_that_is_another_is_not_taken_for_it(join, lower):
    join.set_data("a", io.BytesIO(b"changed"))
    put(lower, "b", b"another by now")
    assert (join.to_bytes("a"), join.to_bytes("b")) == (b"changed", b"another by now")
    put(lower, "b", b"lower 0")


def test_where_the_first_store_has_no_links_they_are_parted(lower):
    with JoinedStore([MappingStore({}), lower]) as join:
        assert join.stat("a").breaks
        put(join, "a", b"changed")
        assert (join.to_bytes("a"), join.to_bytes("b")) == (b"changed", b"lower 0")


def test_the_copy_is_the_first_stores_whichever_has_the_file(join):
    with JoinedStore([MemoryStore(), *join.layers]) as three:
        three.set_data("a", io.BytesIO(b"changed"))
        assert (three.to_bytes("b"), join.layers[1].to_bytes("b")) == (b"changed", b"lower 0")


class File:
    def __init__(self, data):
        self.data, self.mode = data, 0o644


class Reference:
    """What keys there are, and which of them are one file."""

    def __init__(self):
        self.files = {key: file for number, keys in enumerate(GROUPS) for file in [File(b"lower %d" % number)] for key in keys}

    def seen(self):
        names = list(self.files.values())
        return {key: (file.data, names.count(file), [k for k, f in sorted(self.files.items()) if f is file]) for key, file in self.files.items()}


def seen(join, prefix=""):
    found, numbers = {}, {}

    def walk(prefix):
        for name, stat in sorted(join.list(prefix)):
            if stat.is_directory:
                walk(f"{prefix}{name}/")
                continue
            key = prefix + name
            assert stat._replace(atime=0) == join.stat(key)._replace(atime=0), key
            numbers.setdefault(stat.file_id, []).append(key)
            found[key] = (join.to_bytes(key), stat.nlink, numbers[stat.file_id])

    walk("")
    return {key: (data, links, sorted(keys)) for key, (data, links, keys) in found.items()}


class Machine:
    """Does the same to a join and to the reference."""

    def __init__(self, join, seed):
        self.join, self.chance, self.reference = join, random.Random(seed), Reference()

    def step(self, step):
        join, chance, files = self.join, self.chance, self.reference.files
        key = chance.choice(sorted(files))
        new = chance.choice([*sorted(files), f"d/n{step}", f"n{step}", f"h/n{step}"])
        what = chance.choice(["put", "data", "stat", "delete", "rename", "link", "again"])
        if what == "put":
            put(join, key, b"put %d" % step)
            files[key].data = b"put %d" % step
        elif what == "data":
            join.set_data(key, io.BytesIO(b"data %d" % step))
            files[key].data = b"data %d" % step
        elif what == "stat":
            join.set_stat(key, mtime=step)
        elif what == "delete" and len(files) > 3:
            join.delete(key)
            del files[key]
        elif what == "rename" and files.get(new) is not files[key]:
            join.rename(key, new)
            files[new] = files.pop(key)
        elif what == "link" and new not in files:
            join.link(key, new)
            files[new] = files[key]
        elif what == "again":
            self.again()
        assert seen(self.join) == self.reference.seen(), what

    def again(self):
        if self.join.layers[0].capabilities.persistent:
            self.join.disconnect()
            self.join.connect()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_done_it_is_as_if_the_lower_store_were_written_to(join, seed):
    machine = Machine(join, seed)
    for step in range(40):
        machine.step(step)
    for key in list(machine.reference.files):
        join.delete(key)
    assert copies(join) == []
    assert list(join.check()) == []


class Rotating(Machine):
    """The first store becomes a lower one, now and then."""

    def again(self):
        self.join = JoinedStore([MemoryStore(), *self.join.layers])
        self.join.connect()


@pytest.mark.parametrize("seed", range(20))
def test_that_is_so_when_first_stores_become_lower_ones(seed):
    with MemoryStore() as lower:
        machine = Rotating(JoinedStore([MemoryStore(), filled(lower)]), seed)
        machine.join.connect()
        for step in range(40):
            machine.step(step)
        assert list(machine.join.check()) == []


def test_a_lower_store_that_was_copied_has_other_numbers_and_that_is_found(join, lower):
    join.set_data("a", io.BytesIO(b"changed"))
    lower.delete("b")
    put(lower, "c.new", b"")  # takes the number that "a" may get back
    data = lower.to_bytes("a")
    lower.delete("a")
    put(lower, "another", b"")
    put(lower, "a", data)
    lower.link("a", "b")
    assert any("hard links" in sentence for sentence in join.check())
    lower.delete("c.new")
    lower.delete("another")


def test_a_join_as_first_store_parts_them():
    """It takes no keys that are marks."""
    with MemoryStore() as lower, JoinedStore([JoinedStore([MemoryStore(), MemoryStore()]), filled(lower)]) as join:
        put(join, "a", b"changed")
        assert (join.to_bytes("a"), join.to_bytes("b")) == (b"changed", b"lower 0")


@pytest.mark.parametrize("left", [-1, 1 << 40, "1", None, [], 1.5])
def test_a_count_that_makes_no_sense_is_none(join, left):
    join.set_data("a", io.BytesIO(b"changed"))
    join.layers[0].update_metadata(DIRECTORY + copies(join)[0], {"joinfs.links": left})
    assert (join.stat("a").nlink, join.stat("b").nlink, join.to_bytes("b")) == (2, 2, b"lower 0")


def test_what_others_put_beside_copies_is_passed_over(join):
    join.set_data("a", io.BytesIO(b"changed"))
    put(join.layers[0], DIRECTORY + "not a number", b"")
    put(join.layers[0], DIRECTORY + "12", b"")
    assert list(join.check()) == []
    assert join.to_bytes("b") == b"changed"


# -------------------------------------------------------------------- lower files that others change, and other joins


CHANGES_OF_ANOTHER = {
    "written": lambda join, key: join.set_data(key, io.BytesIO(b"other")),
    "given a mode": lambda join, key: join.set_stat(key, mode=0o600),
    "renamed": lambda join, key: join.rename(key, "renamed"),
    "deleted": lambda join, key: join.delete(key),
}


@pytest.mark.parametrize("change", CHANGES_OF_ANOTHER.values(), ids=CHANGES_OF_ANOTHER)
@pytest.mark.parametrize("below", [MemoryStore, DirectoryStore])
def test_what_was_written_stays_when_others_touch_the_lower_file(upper, tmp_path, below, change):
    (tmp_path / "below").mkdir()
    lower = below() if below is MemoryStore else below(tmp_path / "below")
    with JoinedStore([upper, lower]) as join:
        filled(lower)
        join.set_data("c", io.BytesIO(b"precious"))
        join.set_stat("d/c", mode=0o640)
        lower.set_stat("d/e/c", mtime=12345)  # of all its keys
        assert join.stat("d/e/c").file_id != join.stat("c").file_id, "they are two files now"
        change(join, "d/e/c")
        assert [join.to_bytes(key) for key in ("c", "d/c")] == [b"precious"] * 2
        join.delete("c")
        assert join.to_bytes("d/c") == b"precious"
        assert join.stat("d/c").mode == 0o100640


def test_a_transaction_that_is_undone_leaves_nothing_that_is_believed(join):
    with pytest.raises(ValueError, match="undone"), join.transaction("test"):
        join.set_data("a", io.BytesIO(b"changed"))
        raise ValueError("undone")
    assert join.to_bytes("b") == b"lower 0"
    join.delete("c")
    join.set_data("a", io.BytesIO(b"again"))
    assert join.to_bytes("b") == b"again"
    assert join.layers[0].stat(DIRECTORY).mode == 0o40700


def test_copies_that_a_layer_gets_are_seen_by_joins_that_looked_before(upper, lower):
    with JoinedStore([upper, lower]) as join, JoinedStore([MemoryStore(), upper, lower]) as above:
        assert above.to_bytes("a") == b"lower 0"
        join.set_data("b", io.BytesIO(b"changed"))
        assert [above.to_bytes(key) for key in "ab"] == [b"changed"] * 2
        above.set_data("a", io.BytesIO(b"above"))
        assert [above.to_bytes(key) for key in "ab"] == [b"above"] * 2
        assert [join.to_bytes(key) for key in "ab"] == [b"changed"] * 2
        assert list(above.check()) == []


def test_two_joins_over_one_first_store_make_one_copy(upper, lower):
    with JoinedStore([upper, lower]) as one, JoinedStore([upper, lower]) as other:
        assert other.to_bytes("b") == b"lower 0"
        one.set_data("a", io.BytesIO(b"precious"))
        other.set_stat("b", mode=0o600)
        assert [one.to_bytes(key) for key in "ab"] == [b"precious"] * 2
        assert [one.stat(key).mode for key in "ab"] == [0o100600] * 2


def test_a_copy_of_what_a_lower_file_was_before_is_not_linked_to(upper, lower):
    with JoinedStore([upper, lower]) as one, JoinedStore([upper, lower]) as other:
        assert other.to_bytes("b") == b"lower 0"
        one.set_data("a", io.BytesIO(b"precious"))
        lower.set_stat("b", mtime=12345)
        other.set_stat("b", mode=0o600)
        assert (other.to_bytes("b"), other.stat("b").mode) == (b"lower 0", 0o100600)
        assert (one.to_bytes("a"), one.stat("a").mode) == (b"precious", 0o100644)


@pytest.mark.parametrize("first", [lambda: MappingStore({}), lambda: JoinedStore([MemoryStore(), MemoryStore()])], ids=["mapping", "join"])
@pytest.mark.parametrize("change", list(CHANGES_OF_ANOTHER.values())[:2], ids=list(CHANGES_OF_ANOTHER)[:2])
def test_the_last_of_several_keys_changes_where_the_first_store_keeps_no_links(upper, lower, first, change):
    with JoinedStore([upper, lower]) as join:
        join.delete("a")
        with JoinedStore([first(), upper, lower]) as above:
            assert above.stat("b").nlink == 1
            change(above, "b")
            assert above.to_bytes("b") in {b"other", b"lower 0"}
            assert not above.layers[0].exists(DIRECTORY)


def test_what_takes_the_place_of_one_of_several_keys_has_a_number_of_its_own(join):
    join.put("a", new_stat(0o120777), io.BytesIO(b"target"))
    assert join.stat("a").file_id != join.stat("b").file_id
    assert join.stat("b").nlink == 1


def test_copying_up_one_of_several_keys_changes_no_time_of_the_root(join):
    join.set_stat("", mtime=5)
    join.set_stat("d/f", mode=0o600)
    assert join.stat("").mtime == 5
