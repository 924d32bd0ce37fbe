"""What every store promises, as tests. A store that cannot do something says so by its capabilities,
and is then tested for refusing it.

The oracle is plain data; it shares nothing with the stores. Authors who can look into their medium
without their store override ``raw``.
"""

import io
import itertools
import stat as stat_module
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NameTooLong,
    NoSuchAttribute,
    NotADirectory,
    NotConnected,
    ReadOnly,
    Unsupported,
)
from joinfs.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from joinfs.stores import Stat, Store

FILE, DIRECTORY = stat_module.S_IFREG | 0o640, stat_module.S_IFDIR | 0o750
LINK, PIPE = stat_module.S_IFLNK | 0o777, stat_module.S_IFIFO | 0o600
OLD, OLDER = 1_500_000_000_123_456_789, 1_400_000_000_987_654_321
METADATA = {
    "text": "some text", "empty": "", "number": 5, "digits": "5", "real": 1.5, "yes": True, "nothing": None,
    "row": [1, "two"], "nested": {"a": {"b": [None]}}, "bytes": "\udcff\udc80", "accent": "é\N{SNOWMAN}",
}  # fmt: skip


class Failing(io.RawIOBase):
    """A stream that breaks after its first bytes."""

    def __init__(self) -> None:
        self._left = [b"first "]

    def read(self, size: int = -1) -> bytes:
        if self._left:
            return self._left.pop()
        raise OSError(5, "the source broke")


def data(content: bytes) -> BinaryIO:
    return io.BytesIO(content)


def read_and_close(stream: BinaryIO) -> bytes:
    with stream:
        return stream.read()


class _Reading:
    """The half of the contract that needs no writing; the store has ``CONTENTS``."""

    CONTENTS: Mapping[str, bytes] = {
        "a": b"0123456789", "d/b": b"bee", "d/s/c": bytes(range(256)) * 3000, "empty": b"",
    }  # fmt: skip

    @pytest.fixture
    def filled(self, tmp_path: Path) -> Iterator[Store]:
        with self.make_filled(tmp_path) as store:
            yield store

    def make_filled(self, place: Path) -> Store:
        """A store, not connected, that will have ``CONTENTS``."""
        raise NotImplementedError

    def test_get_answers_data_and_metadata(self, filled: Store) -> None:
        value = filled.get("a")
        stream, metadata = value
        with stream:
            assert stream.read() == b"0123456789"
        assert metadata == {}
        assert value.size == 10

    def test_a_value_gives_its_stream_in_a_with_statement_and_closes_it(self, filled: Store) -> None:
        with filled.get("a") as stream:
            assert stream.read(3) == b"012"
        assert stream.closed

    def test_a_value_has_ranges_and_pieces(self, filled: Store) -> None:
        value = filled.get("a")
        for start, end, expected in ((2, 5, b"234"), (8, None, b"89"), (None, 2, b"01"), (20, 30, b"")):
            with value.range(start, end) as stream:
                assert stream.read() == expected
        assert list(value.iterdata(4)) == [b"0123", b"4567", b"89"]
        value.close()

    def test_get_data_range_leaves_out_its_end(self, filled: Store) -> None:
        with filled.get_data_range("a", 2, 5) as stream:
            assert stream.read() == b"234"

    @pytest.mark.parametrize("key", CONTENTS)
    def test_all_data_comes_back(self, filled: Store, key: str) -> None:
        assert filled.to_bytes(key) == self.CONTENTS[key]
        assert filled.to_bytes(key, buffer_size=1000) == self.CONTENTS[key]

    def test_read_answers_ranges_and_is_short_only_at_the_end(self, filled: Store) -> None:
        whole = self.CONTENTS["d/s/c"]
        for offset, size in ((0, 1), (0, len(whole) + 5), (300_000, 300_000), (len(whole) - 3, 10), (255, 257)):
            assert filled.read("d/s/c", offset, size) == whole[offset : offset + size]
        assert filled.read("d/s/c", len(whole), 5) == b""
        assert filled.read("empty", 0, 5) == b""

    def test_stat_tells_kind_and_size(self, filled: Store) -> None:
        assert filled.stat("a").is_file
        assert filled.stat("d/s/c").size == 768_000
        assert filled.stat("d/").is_directory
        assert filled.stat("").is_directory

    def test_stat_is_for_the_kind_that_the_key_spells_and_lookup_for_either(self, filled: Store) -> None:
        for wrong in ("a/", "d", "missing", "missing/", "a/b", "d/b/x"):
            with pytest.raises(KeyError):
                filled.stat(wrong)
        assert filled.lookup("a").is_file
        assert filled.lookup("d").is_directory
        with pytest.raises(KeyError):
            filled.lookup("missing")

    def test_list_is_one_level_deep(self, filled: Store) -> None:
        assert {name: stat.is_directory for name, stat in filled.list("")} == {"a": False, "d": True, "empty": False}
        assert {name for name, _ in filled.list("d/")} == {"b", "s"}
        assert dict(filled.list("d/"))["b"] == filled.stat("d/b")

    def test_listing_what_is_no_directory_is_a_missing_key(self, filled: Store) -> None:
        for wrong in ("missing/", "a/", "d/b/"):
            with pytest.raises(KeyError):
                list(filled.list(wrong))

    def test_a_missing_key_is_a_key_error(self, filled: Store) -> None:
        for method in (filled.get, filled.get_data, filled.get_metadata, filled.to_bytes, filled.get_xattrs):
            with pytest.raises(KeyError):
                method("missing")
        with pytest.raises(KeyError):
            filled.read("missing", 0, 1)
        with pytest.raises(KeyError):
            list(filled.multiget(iter(["a", "missing"])))
        assert not filled.exists("missing")

    @pytest.mark.parametrize("key", ["../a", "d/../a", "./a", "d//b", "/a", "a\0", "x" * 300])
    def test_what_is_no_key_is_missing(self, filled: Store, key: str) -> None:
        assert not filled.exists(key)
        with pytest.raises(KeyError):
            filled.get(key)

    def test_keys_and_queries_answer_values_and_no_directories(self, filled: Store) -> None:
        assert sorted(filled.query_keys()) == sorted(self.CONTENTS)
        assert dict(filled.query()) == {key: {} for key in self.CONTENTS}
        assert sorted(filled.keys("d/")) == ["d/b", "d/s/c"]
        assert list(filled.query_keys(colour="red")) == []

    def test_glob_crosses_slashes(self, filled: Store) -> None:
        assert sorted(filled.glob("*")) == sorted(self.CONTENTS)
        assert sorted(filled.glob("d/*")) == ["d/b", "d/s/c"]
        assert list(filled.glob("d/?")) == ["d/b"]
        assert list(filled.glob("[ab]")) == ["a"]
        assert list(filled.glob("nothing*")) == []

    def test_several_keys_are_read_at_once(self, filled: Store) -> None:
        keys = ["a", "d/b"]
        assert [read_and_close(stream) for stream, _ in filled.multiget(iter(keys))] == [b"0123456789", b"bee"]
        assert [read_and_close(stream) for stream in filled.multiget_data(iter(keys))] == [b"0123456789", b"bee"]
        assert list(filled.multiget_metadata(iter(keys))) == [{}, {}]

    def test_to_file_writes_a_file(self, filled: Store, tmp_path: Path) -> None:
        filled.to_file("d/s/c", str(tmp_path / "out"), buffer_size=1000)
        assert (tmp_path / "out").read_bytes() == self.CONTENTS["d/s/c"]
        with pytest.raises(KeyError):
            filled.to_file("missing", str(tmp_path / "none"))
        assert not (tmp_path / "none").exists()

    def test_nothing_works_before_connect_and_after_disconnect(self, filled: Store) -> None:
        assert filled.is_connected()
        filled.disconnect()
        filled.disconnect()
        assert not filled.is_connected()
        for method in (filled.get, filled.stat, filled.lookup, filled.get_metadata):
            with pytest.raises(NotConnected):
                method("a")
        with pytest.raises(NotConnected):
            list(filled.list(""))
        with pytest.raises(NotConnected):
            filled.delete("a")

    def test_threads_read_side_by_side(self, filled: Store) -> None:
        wrong: list[object] = []

        def read() -> None:
            for offset in range(0, 600_000, 50_000):
                got = filled.read("d/s/c", offset, 7000)
                wrong.extend([offset] if got != self.CONTENTS["d/s/c"][offset : offset + 7000] else [])

        in_threads(read, 6)
        assert wrong == []

    def test_info_tells_name_and_whether_it_takes_writes(self, filled: Store) -> None:
        assert filled.info()["readonly"] is not filled.capabilities.writable
        assert filled.info()["name"] == filled.name


class ReadOnlyContract(_Reading):
    """The contract of a store that takes no writes."""

    def test_every_write_is_refused(self, filled: Store) -> None:
        assert not filled.capabilities.writable
        stat = Stat(FILE)
        for write in (
            lambda: filled.set("new", (data(b""), {})),
            lambda: filled.set_data("a", data(b"")),
            lambda: filled.set_metadata("a", {}),
            lambda: filled.update_metadata("a", {}),
            lambda: filled.put("new", stat),
            lambda: filled.delete("a"),
            lambda: filled.rename("a", "b"),
            lambda: filled.exchange("a", "d/b"),
            lambda: filled.link("a", "b"),
            lambda: filled.set_stat("a", mode=0o600),
            lambda: filled.set_xattr("a", "security.x", b""),
        ):
            with pytest.raises(ReadOnly):
                write()
        assert filled.to_bytes("a") == b"0123456789"


class StoreContract(_Reading):
    """The contract of a store. A subclass says how one is made."""

    def make_store(self, place: Path) -> Store:
        """A new, empty store that is not connected; ``place`` is a directory for its medium."""
        raise NotImplementedError

    def make_filled(self, place: Path) -> Store:
        store = self.make_store(place)
        with store:
            for key, content in self.CONTENTS.items():
                store.set(key, (data(content), {}))
            if not store.capabilities.persistent:
                store.disconnect()
        return store

    def raw(self, place: Path, key: str) -> bytes | None:
        """What the medium has under ``key``, read without the store; None if that cannot be told."""
        return None

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with self.make_store(tmp_path) as store:
            yield store

    @pytest.fixture
    def heard(self, store: Store) -> list[StoreEvent]:
        events: list[StoreEvent] = []
        store.event_manager.connect(StoreEvent, events.append)
        return events

    # ---------------------------------------------------------------- values

    def test_set_makes_and_replaces(self, store: Store, tmp_path: Path) -> None:
        store.set("a/b", (data(b"one"), {"n": "1"}))
        assert self.raw(tmp_path, "a/b") in {None, b"one"}
        store.set("a/b", (data(b"two"), {"m": "2"}))
        assert store.to_bytes("a/b") == b"two"
        assert store.get_metadata("a/b") == {"m": "2"}
        assert self.raw(tmp_path, "a/b") in {None, b"two"}

    def test_set_takes_a_value(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        store.set("b", store.get("a"))
        assert (store.to_bytes("b"), store.get_metadata("b")) == (b"one", {"n": "1"})

    def test_set_keeps_mode_and_owner_of_what_is_there(self, store: Store) -> None:
        store.set("a", (data(b"one"), {}))
        store.set_stat("a", mode=0o604)
        store.set("a", (data(b"two"), {}))
        assert stat_module.S_IMODE(store.stat("a").mode) == 0o604

    def test_set_data_keeps_metadata(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        store.set_data("a", data(b"longer than one"))
        store.set_data("new", data(b"new"))
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"longer than one", {"n": "1"})
        assert (store.to_bytes("new"), store.get_metadata("new")) == (b"new", {})

    def test_metadata_is_replaced_or_updated_and_data_stays(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1", "m": "1"}))
        store.set_metadata("a", {"n": "2"})
        assert store.get_metadata("a") == {"n": "2"}
        store.update_metadata("a", {"k": "3"})
        assert store.get_metadata("a") == {"n": "2", "k": "3"}
        assert store.get_metadata("a", ["k", "absent"]) == {"k": "3"}
        assert store.to_bytes("a") == b"one"
        with pytest.raises(KeyError):
            store.update_metadata("missing", {})
        store.set_metadata("new", {"n": "1"})
        assert (store.to_bytes("new"), store.get_metadata("new")) == (b"", {"n": "1"})
        with pytest.raises(KeyError):
            store.set_metadata("missing/", {})

    def test_metadata_keeps_its_types(self, store: Store) -> None:
        store.set("a", (data(b""), METADATA))
        assert store.get_metadata("a") == METADATA
        store.put("d/", Stat(DIRECTORY), None, METADATA)
        assert store.get_metadata("d/") == METADATA

    def test_metadata_that_is_not_json_is_refused_and_changes_nothing(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        with pytest.raises(Unsupported):
            store.set_metadata("a", {"o": object()})
        with pytest.raises(Unsupported):
            store.set("a", (data(b"two"), {"o": object()}))
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"one", {"n": "1"})

    def test_metadata_that_is_answered_is_the_callers_own(self, store: Store) -> None:
        given = {"n": ["1"]}
        store.set("a", (data(b""), given))
        given["n"].append("2")
        store.get_metadata("a")["m"] = "3"
        store.get("a").metadata["m"] = "3"
        assert store.get_metadata("a") == {"n": ["1"]}

    def test_large_data_goes_in_and_out_by_buffers(self, store: Store, tmp_path: Path) -> None:
        content = bytes(range(251)) * 10_000
        store.set("big", (data(content), {}), 4096)
        assert store.to_bytes("big", 4096) == content
        (tmp_path / "source").write_bytes(content)
        store.from_file("copy", str(tmp_path / "source"), 4096)
        assert store.to_bytes("copy") == content
        store.from_bytes("bytes", content)
        assert store.stat("bytes").size == len(content)

    def test_a_stream_goes_on_answering_the_old_value(self, store: Store) -> None:
        old = b"old" * 400_000
        store.set("a", (data(old), {}))
        with store.get("a") as stream:
            first = stream.read(10)
            store.set("a", (data(b"new"), {}))
            assert first + stream.read() == old
        with store.get("a") as stream:
            stream.read(1)
            store.delete("a")
            assert stream.read() == b"ew"

    def test_a_source_that_breaks_leaves_the_old_value(self, store: Store) -> None:
        store.set("a", (data(b"old"), {"n": "1"}))
        for key in ("a", "new"):
            with pytest.raises(OSError, match="broke"):
                store.set(key, (Failing(), {}))
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"old", {"n": "1"})
        assert not store.exists("new")
        assert [name for name, _ in store.list("")] == ["a"]

    # ---------------------------------------------------------------- nodes

    def test_put_keeps_attributes_and_metadata(self, store: Store) -> None:
        stat = Stat(FILE, 0, *store._default_owner(), 0, OLD, OLDER)
        made = store.put("d/a", stat, data(b"abc"), {"n": "1"})
        assert made == store.stat("d/a")
        assert (made.mode, made.size, made.atime, made.mtime) == (FILE, 3, OLD, OLDER)
        assert store.get_metadata("d/a") == {"n": "1"}
        store.put("d/", stat._replace(mode=DIRECTORY), None, {"m": "2"})
        assert (store.stat("d/").mode, store.stat("d/").mtime) == (DIRECTORY, OLDER)
        assert store.get_metadata("d/") == {"m": "2"}
        assert store.to_bytes("d/a") == b"abc"

    def test_symlinks_and_special_files(self, store: Store) -> None:
        store.put("link", Stat(LINK, 0, *store._default_owner()), data(b"../outside"))
        assert store.stat("link").is_symlink
        assert store.stat("link").size == 10
        assert store.to_bytes("link") == b"../outside"
        store.put("pipe", Stat(PIPE, 0, *store._default_owner()))
        assert stat_module.S_ISFIFO(store.stat("pipe").mode)
        assert store.to_bytes("pipe") == b""
        assert sorted(store.query_keys()) == ["link"]
        store.delete("link")
        store.delete("pipe")

    def test_metadata_on_symlinks_by_capability(self, store: Store) -> None:
        store.put("link", Stat(LINK, 0, *store._default_owner()), data(b"t"))
        if store.capabilities.metadata_on_all:
            store.set_metadata("link", {"n": "1"})
            assert store.get_metadata("link") == {"n": "1"}
        else:
            with pytest.raises(Unsupported):
                store.set_metadata("link", {"n": "1"})
            assert store.get_metadata("link") == {}

    def test_set_stat_changes_what_is_given(self, store: Store) -> None:
        store.set("a", (data(b"abc"), {"n": "1"}))
        before = store.stat("a")
        after = store.set_stat("a", mode=0o600, mtime=OLD)
        assert after == store.stat("a")
        assert (after.mode, after.mtime, after.atime, after.uid) == (stat_module.S_IFREG | 0o600, OLD, before.atime, before.uid)
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"abc", {"n": "1"})
        store.put("d/", Stat(DIRECTORY, 0, *store._default_owner()))
        assert store.set_stat("d/", mode=0o700).mode == stat_module.S_IFDIR | 0o700
        with pytest.raises(KeyError):
            store.set_stat("missing", mode=0)

    def test_what_is_of_the_other_kind_is_not_replaced(self, store: Store) -> None:
        store.set("a", (data(b"abc"), {}))
        store.set("d/b", (data(b"abc"), {}))
        with pytest.raises(IsADirectory):
            store.set("d", (data(b""), {}))
        with pytest.raises(NotADirectory):
            store.put("a/", Stat(DIRECTORY))
        with pytest.raises(NotADirectory):
            store.set("a/x", (data(b""), {}))
        assert store.to_bytes("a") == store.to_bytes("d/b") == b"abc"

    def test_delete(self, store: Store) -> None:
        store.set("d/b", (data(b"abc"), {}))
        with pytest.raises(DirectoryNotEmpty):
            store.delete("d/")
        for wrong in ("missing", "d", "d/b/", "missing/"):
            with pytest.raises(KeyError):
                store.delete(wrong)
        store.put("e/", Stat(DIRECTORY, 0, *store._default_owner()))
        store.delete("e/")
        assert not store.exists("e/")
        store.delete("d/b")
        assert not store.exists("d/b")

    @pytest.mark.parametrize("key", ["../a", "d/../a", ".", "d//b", "/a", "a\0"])
    def test_what_is_no_key_is_refused(self, store: Store, key: str) -> None:
        with pytest.raises(InvalidKey):
            store.set(key, (data(b""), {}))
        store.set("a", (data(b""), {}))
        with pytest.raises(InvalidKey):
            store.rename("a", key)

    def test_names_of_any_bytes_and_of_255(self, store: Store) -> None:
        names = ["x" * 255, "é" * 127, "a\nb", "\\", "*?[", " ", "-", "a%2Fb", "\x01\x7f"]
        names += ["\udcff\udc80", "ok\udce9"] if store.capabilities.bytes_names else []
        for name in names:
            store.set(f"d/{name}", (data(name.encode("utf-8", "surrogateescape")), {}))
        assert sorted(name for name, _ in store.list("d/")) == sorted(names)
        for name in names:
            assert store.to_bytes(f"d/{name}") == name.encode("utf-8", "surrogateescape")
        with pytest.raises(NameTooLong):
            store.set("é" * 128, (data(b""), {}))

    # ---------------------------------------------------------------- moving

    def test_rename_moves_a_value_over_another(self, store: Store) -> None:
        store.set("a", (data(b"abc"), {"n": "1"}))
        store.set("d/b", (data(b"old"), {"m": "2"}))
        store.rename("a", "d/b")
        assert not store.exists("a")
        assert (store.to_bytes("d/b"), store.get_metadata("d/b")) == (b"abc", {"n": "1"})
        store.rename("d/b", "d/b")
        assert store.to_bytes("d/b") == b"abc"

    def test_rename_moves_a_directory_with_all_below_it(self, store: Store) -> None:
        for key in ("d/a", "d/s/b"):
            store.set(key, (data(key.encode()), {"n": key}))
        store.put("d/empty/", Stat(DIRECTORY, 0, *store._default_owner()), None, {"m": "1"})
        store.put("e/", Stat(DIRECTORY, 0, *store._default_owner()))
        store.rename("d/", "e/")
        assert sorted(store.keys()) == ["e/a", "e/s/b"]
        assert store.to_bytes("e/s/b") == b"d/s/b"
        assert store.get_metadata("e/empty/") == {"m": "1"}
        assert not store.exists("d/")

    def test_rename_refuses_what_rename_2_refuses(self, store: Store) -> None:
        for key in ("a", "d/a", "e/b"):
            store.set(key, (data(b"abc"), {}))
        with pytest.raises(DirectoryNotEmpty):
            store.rename("d/", "e/")
        with pytest.raises(InvalidKey):
            store.rename("d/", "d/x/")
        with pytest.raises(InvalidKey):
            store.rename("a", "x/")
        with pytest.raises(IsADirectory):
            store.rename("a", "d")
        with pytest.raises(NotADirectory):
            store.rename("d/", "a/")
        with pytest.raises(KeyError):
            store.rename("missing", "x")
        assert sorted(store.keys()) == ["a", "d/a", "e/b"]

    def test_exchange_swaps_any_kinds_or_says_that_it_cannot(self, store: Store) -> None:
        store.set("a", (data(b"file"), {}))
        store.set("d/b", (data(b"inside"), {}))
        try:
            store.exchange("a", "d/")
        except Unsupported:
            assert sorted(store.keys()) == ["a", "d/b"]
            return
        assert (store.to_bytes("d"), store.to_bytes("a/b")) == (b"file", b"inside")
        with pytest.raises(InvalidKey):
            store.exchange("a/", "a/b")

    def test_hard_links_share_everything(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        if not store.capabilities.hard_links:
            with pytest.raises(Unsupported):
                store.link("a", "d/b")
            return
        assert store.link("a", "d/b").nlink == 2
        store.set("a", (data(b"two"), {"n": "2"}))
        store.set_stat("d/b", mode=0o600)
        one, other = store.stat("a"), store.stat("d/b")
        assert one == other
        assert one.file_id is not None
        assert (store.to_bytes("d/b"), store.get_metadata("d/b")) == (b"two", {"n": "2"})
        with pytest.raises(KeyExists):
            store.link("a", "d/b")
        store.rename("a", "d/b")
        assert store.exists("a")
        store.delete("a")
        assert (store.stat("d/b").nlink, store.to_bytes("d/b")) == (1, b"two")

    def test_foreign_xattrs_by_capability(self, store: Store) -> None:
        store.set("a", (data(b"one"), {}))
        if not store.capabilities.xattrs:
            with pytest.raises(Unsupported):
                store.set_xattr("a", "trusted.x", b"1")
            return
        try:
            store.set_xattr("a", "trusted.x", b"\0\xff")
        except PermissionError:
            pytest.skip("needs root, for trusted attributes")
        assert store.get_xattrs("a")["trusted.x"] == b"\0\xff"
        assert store.get_metadata("a") == {}
        store.set_xattr("a", "trusted.x", None)
        assert "trusted.x" not in store.get_xattrs("a")
        with pytest.raises(NoSuchAttribute):
            store.set_xattr("a", "trusted.x", None)

    # ---------------------------------------------------------------- queries

    def test_queries_match_exactly(self, store: Store) -> None:
        store.set("a", (data(b""), {"colour": "red", "n": 1}))
        store.set("b", (data(b""), {"colour": "red", "n": "1"}))
        store.set("d/c", (data(b""), {"colour": "blue"}))
        assert sorted(store.query_keys(colour="red")) == ["a", "b"]
        assert list(store.query_keys(colour="red", n=1)) == ["a"]
        assert dict(store.query(select=["n"], colour="red")) == {"a": {"n": 1}, "b": {"n": "1"}}
        assert dict(store.query(colour="blue")) == {"d/c": {"colour": "blue"}}

    def test_every_value_can_be_asked_for(self, store: Store) -> None:
        store.set("a", (data(b""), {**METADATA, "long": "l" * 500}))
        store.set("b", (data(b""), {"number": "5", "yes": "true", "long": "l" * 499 + "m"}))
        for name, value in METADATA.items():
            assert list(store.query_keys(**{name: value})) == ["a"], name
        assert list(store.query_keys(number=5.0, yes=1)) == ["a"]
        assert list(store.query_keys(long="l" * 500)) == ["a"]
        assert list(store.query_keys(nested={"a": {"b": [0]}})) == list(store.query_keys(absent=None)) == []
        assert list(store.query_keys(number=object())) == []

    def test_queries_follow_every_change(self, store: Store) -> None:
        for key in ("d/a", "d/b", "c"):
            store.set(key, (data(b""), {"k": key, "all": True}))
        store.set_metadata("c", {"k": "changed", "all": True})
        store.rename("d/", "e/")
        store.delete("e/b")
        assert sorted(store.query_keys(all=True)) == ["c", "e/a"]
        assert list(store.query_keys(k="changed", all=True)) == ["c"]
        assert list(store.query_keys(k="d/b")) == list(store.query_keys(k="c")) == []

    # ---------------------------------------------------------------- several at once

    def test_the_longer_of_two_rows_is_cut(self, store: Store) -> None:
        store.multiset(iter(["a", "b", "c"]), iter([(data(b"1"), {"n": "1"}), (data(b"2"), {})]))
        assert sorted(store.keys()) == ["a", "b"]
        store.multiset_data(iter(["a", "b"]), iter([data(b"3"), data(b"4"), data(b"5")]))
        store.multiset_metadata(iter(["b"]), iter([{"m": "1"}, {}]))
        store.multiupdate_metadata(iter(["a", "b"]), iter([{"k": "1"}, {"k": "2"}]))
        assert list(store.multiget_metadata(["a", "b"])) == [{"n": "1", "k": "1"}, {"m": "1", "k": "2"}]
        assert [store.to_bytes(key) for key in ("a", "b")] == [b"3", b"4"]

    def test_a_transaction_is_all_or_nothing_or_the_store_says_that_it_is_not(self, store: Store) -> None:
        store.set("a", (data(b"old"), {"n": "1"}))
        store.set("d/b", (data(b"b"), {}))
        with pytest.raises(RuntimeError), store.transaction("fails"):
            store.set("a", (data(b"new"), {}))
            store.set("new", (data(b"new"), {}))
            store.delete("d/b")
            with store.transaction("inner"):
                store.rename("d/", "e/")
            raise RuntimeError
        if store.capabilities.transactions:
            assert sorted(store.keys()) == ["a", "d/b"]
            assert (store.to_bytes("a"), store.get_metadata("a")) == (b"old", {"n": "1"})
        else:
            assert store.to_bytes("a") == b"new"
        with store.transaction("succeeds"):
            store.set("a", (data(b"newer"), {}))
            assert store.to_bytes("a") == b"newer"
        assert store.to_bytes("a") == b"newer"

    def test_other_threads_see_a_transaction_whole(self, store: Store) -> None:
        if not store.capabilities.transactions:
            return
        store.set("a", (data(b"old"), {}))
        inside, seen = threading.Event(), list[bytes]()

        def look() -> None:
            inside.wait(10)
            seen.append(store.to_bytes("a"))

        thread = threading.Thread(target=look)
        thread.start()
        with store.transaction("half done"):
            store.set("a", (data(b"half"), {}))
            inside.set()
            thread.join(0.2)
            store.set("a", (data(b"done"), {}))
        thread.join(10)
        assert seen in ([b"old"], [b"done"])

    def test_threads_that_write_lose_nothing(self, store: Store) -> None:
        numbers = iter(range(100))
        lock = threading.Lock()

        def write() -> None:
            with lock:
                number = next(numbers)
            for step in range(15):
                store.set(f"d{step % 3}/{number}-{step}", (data(b"%d" % step * 1000), {"n": number}))
                store.set_data("shared", data(b"%d" % number * 1000))

        in_threads(write, 6)
        assert len(list(store.keys())) == 6 * 15 + 1
        assert store.to_bytes("d1/0-1") == b"1" * 1000
        shared = store.to_bytes("shared")
        assert shared == shared[:1] * 1000

    # ---------------------------------------------------------------- events

    def test_events_of_writes(self, store: Store, heard: list[StoreEvent]) -> None:
        store.set("a", (data(b"1"), {"n": "1"}))
        store.set("a", (data(b"2"), {"n": "2"}))
        store.set_metadata("a", {"n": "3"})
        store.delete("a")
        kinds = [StoreSetEvent, StoreUpdateEvent, StoreUpdateEvent, StoreDeleteEvent]
        writes = [e for e in heard if isinstance(e, StoreSetEvent | StoreDeleteEvent)]
        assert [type(event) for event in writes] == kinds
        assert [event.metadata for event in writes] == [{"n": "1"}, {"n": "2"}, {"n": "3"}, {"n": "3"}]
        assert {event.key for event in writes} == {"a"}
        assert all(event.source is store for event in heard)

    def test_progress_is_told_before_the_write_is(self, store: Store, heard: list[StoreEvent]) -> None:
        store.set("a", (data(b"x" * 5000), {}), 1000)
        assert type(heard[0]) is StoreProgressStartEvent
        assert [type(event) for event in heard[-2:]] == [StoreProgressEndEvent, StoreSetEvent]
        assert [(event.done, event.total) for event in heard if isinstance(event, StoreProgressEndEvent)] == [(5000, 5000)]

    def test_reading_whole_values_tells_its_progress(self, store: Store, heard: list[StoreEvent], tmp_path: Path) -> None:
        store.set("a", (data(b"x" * 5000), {}))
        for read in (lambda: store.to_bytes("a", 1000), lambda: store.to_file("a", str(tmp_path / "out"), 1000)):
            heard.clear()
            read()
            done = [event.done for event in heard if isinstance(event, StoreProgressEvent)]
            assert (done[0], done[-1], done == sorted(done), len(done) >= 7) == (0, 5000, True, True)
            assert all(event.source is store and event.key == "a" for event in heard if isinstance(event, StoreProgressEvent))

    def test_a_transfer_that_breaks_ends_as_failed(self, store: Store, heard: list[StoreEvent]) -> None:
        with pytest.raises(OSError, match="broke"):
            store.set("a", (Failing(), {}))
        assert [event.failed for event in heard if isinstance(event, StoreProgressEndEvent)] == [True]
        assert not [event for event in heard if isinstance(event, StoreSetEvent)]

    def test_eight_threads_mix_every_method(self, store: Store) -> None:
        """Nothing is lost, and no value is torn: each is one letter, many times, and says which in its metadata."""
        numbers = itertools.count()
        store.set("counts", (data(b""), {}))

        def mix() -> None:
            number = next(numbers)
            letter = chr(97 + number)
            for step in range(6):
                mix_once(store, f"own{number}/", letter, step)
                assert len(list(store.query_keys(letter=letter, step=step))) == 1
                assert {name for name, _ in store.list("")} <= {"shared", "counts", *(f"own{n}" for n in range(8))}
                store.update_metadata("counts", {f"{letter}{step}": number})
                store.set_data("counts", data(letter.encode()))

        in_threads(mix, 8)
        assert len(list(store.keys())) == 8 * 7 + 2
        assert store.get_metadata("counts") == {f"{chr(97 + n)}{step}": n for n in range(8) for step in range(6)}
        for number in range(8):
            assert store.get_metadata(f"own{number}/x") == {f"n{step}": step for step in range(6)}
            assert store.to_bytes(f"own{number}/5") == (b"%c" % (97 + number)) * 3000

    def test_events_of_a_transaction_follow_its_end(self, store: Store, heard: list[StoreEvent]) -> None:
        with store.transaction("notes"):
            store.set("a", (data(b""), {}))
            store.set("b", (data(b""), {}))
        kinds = [type(event) for event in heard if not isinstance(event, StoreProgressStartEvent | StoreProgressEndEvent)]
        assert kinds == [StoreTransactionStartEvent, StoreTransactionEndEvent, StoreSetEvent, StoreSetEvent]
        heard.clear()
        with pytest.raises(RuntimeError), store.transaction("fails"):
            store.delete("a")
            raise RuntimeError
        assert [type(event) for event in heard] == [StoreTransactionStartEvent]

    # ---------------------------------------------------------------- lasting

    def test_what_was_written_is_there_after_connecting_again(self, store: Store) -> None:
        store.put("d/a", Stat(FILE, 0, *store._default_owner(), 0, OLD, OLDER), data(b"abc"), METADATA)
        store.put("e/", Stat(DIRECTORY, 0, *store._default_owner()))
        before = store.stat("d/a")
        store.sync()
        store.disconnect()
        store.connect()
        if store.capabilities.persistent:
            assert store.stat("d/a") == before
            assert (store.to_bytes("d/a"), store.get_metadata("d/a")) == (b"abc", METADATA)
            assert store.exists("e/")

    def test_local_files_by_capability(self, store: Store) -> None:
        import os

        store.set("a", (data(b"abc"), {}))
        if not store.capabilities.local:
            with pytest.raises(Unsupported):
                store.open_local("a", os.O_RDONLY)
            return
        descriptor = store.open_local("a", os.O_RDWR)
        try:
            assert os.pread(descriptor, 10, 0) == b"abc"
            os.pwrite(descriptor, b"X", 1)
        finally:
            os.close(descriptor)
        assert store.to_bytes("a") == b"aXc"


def mix_once(store: Store, directory: str, letter: str, step: int) -> None:
    """Write, read, rename and look for keys of one thread, and one that all threads write."""
    store.set(f"{directory}{step}", (data(letter.encode() * 3000), {"letter": letter, "step": step}))
    store.set("shared", (data(letter.encode() * 70_000), {"letter": letter}))
    with store.transaction("two at once"):
        store.set_data(f"{directory}x", data(letter.encode()))
        store.update_metadata(f"{directory}x", {f"n{step}": step})
    stream, metadata = store.get("shared")
    with stream:
        assert stream.read() == metadata["letter"].encode() * 70_000
    piece = store.read("shared", 10, 20)
    assert piece == piece[:1] * 20
    store.rename(f"{directory}x", f"{directory}y")
    store.rename(f"{directory}y", f"{directory}x")
    assert sorted(store.glob(f"{directory}?")) == [*(f"{directory}{n}" for n in range(step + 1)), f"{directory}x"]
    assert store.exists("shared")


def in_threads(function: Any, count: int) -> None:
    """Run a function in several threads at once, and raise what any of them raised."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
