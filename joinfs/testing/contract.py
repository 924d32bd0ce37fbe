"""What every store promises, as tests. A store that cannot do something says so by its capabilities,
and is then tested for refusing it.

The oracle is plain data; it shares nothing with the stores. Authors who can look into their medium
without their store override ``raw`` and ``seed``.
"""

import gzip
import io
import os
import stat as stat_module
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NameTooLong,
    NoSuchAttribute,
    NotADirectory,
    OutOfSpace,
    Unsupported,
)
from joinfs.stores import Stat, Store
from joinfs.stores.value import new_stat
from joinfs.testing.contract_reading import DIRECTORY, FILE, LINK, METADATA, OLD, OLDER, PIPE, Failing, ReadingContract, data
from joinfs.testing.contract_together import TogetherContract


class StoreContract(ReadingContract, TogetherContract):
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

    # ---------------------------------------------------------------- values

    def test_set_makes_and_replaces(self, store: Store, tmp_path: Path) -> None:
        store.set("a/b", (data(b"one"), {"n": "1"}))
        assert self.raw(tmp_path, "a/b") in {None, b"one"}
        store.set("a/b", (data(b"two"), {"m": "2"}))
        assert store.to_bytes("a/b") == b"two"
        assert store.get_metadata("a/b") == {"m": "2"}
        assert self.raw(tmp_path, "a/b") in {None, b"two"}

    def test_what_others_put_into_the_medium_is_there(self, store: Store, tmp_path: Path) -> None:
        store.set("d/ours", (data(b"ours"), {}))
        if not self.seed(tmp_path, "d/theirs", b"theirs"):
            pytest.skip("the medium has no room for what others put there")
        assert (store.to_bytes("d/theirs"), store.get_metadata("d/theirs")) == (b"theirs", {})
        assert store.stat("d/theirs")[:2] == (stat_module.S_IFREG | 0o644, 6)
        if store.capabilities.persistent:
            store.disconnect()
            store.connect()
            assert {name for name, _ in store.list("d/")} == {"ours", "theirs"}
        store.set("d/theirs", (data(b"changed"), {"n": "1"}))
        assert (self.raw(tmp_path, "d/theirs"), store.get_metadata("d/theirs")) == (b"changed", {"n": "1"})
        store.delete("d/theirs")
        assert sorted(store.keys()) == ["d/ours"]

    def test_set_takes_a_value(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        store.set("b", store.get("a"))
        value = store.get("a")
        with value[0] as stream:
            assert (stream.read(), len(value), value[1]) == (b"one", 2, {"n": "1"})
        assert (store.to_bytes("b"), store.get_metadata("b")) == (b"one", {"n": "1"})

    def test_data_is_what_a_stream_gives(self, store: Store, tmp_path: Path) -> None:
        packed = tmp_path / "packed"
        packed.write_bytes(gzip.compress(b"unpacked"))
        with gzip.open(packed) as stream:
            store.set("a", (stream, {}))
        with packed.open("rb") as file:
            file.seek(2)
            store.set_data("b", file)
        assert store.to_bytes("a") == b"unpacked"
        store.from_file("version", "/proc/version")  # which says that it is empty
        assert store.to_bytes("version") == Path("/proc/version").read_bytes() != b""
        assert store.to_bytes("b") == packed.read_bytes()[2:]

    def test_names_of_metadata_are_text(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        for name in ("", "a\0b", 5, "\ud800"):
            metadata: dict[str, Any] = {name: "x"}  # type: ignore[dict-item]
            for write in (
                lambda metadata=metadata: store.set("a", (data(b"two"), metadata)),
                lambda metadata=metadata: store.put("a", Stat(FILE), data(b"two"), metadata),
                lambda metadata=metadata: store.set_metadata("a", metadata),
                lambda metadata=metadata: store.update_metadata("a", metadata),
            ):
                with pytest.raises(Unsupported, match="name for metadata"):
                    write()
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"one", {"n": "1"})

    def test_metadata_too_large_is_told(self, store: Store) -> None:
        store.set("a", (data(b"one"), {"n": "1"}))
        for metadata in ({"n": "x" * 100_000}, {"n" * 300: "x"}):
            try:
                store.update_metadata("a", metadata)
            except (NameTooLong, OutOfSpace, Unsupported):
                assert store.get_metadata("a") == {"n": "1"}
            else:
                assert store.get_metadata("a") == {"n": "1", **metadata}
                store.set_metadata("a", {"n": "1"})

    def test_text_is_no_data(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("text")
        store.set("a", (data(b"one"), {"n": "1"}))
        with (tmp_path / "text").open() as text:
            for stream in (text, io.StringIO("text" * 10_000)):
                with pytest.raises(TypeError, match="bytes"):
                    store.set("a", (stream, {}))
                with pytest.raises(TypeError, match="bytes"):
                    store.set_data("new", stream)  # type: ignore[arg-type]
                with pytest.raises(TypeError, match="bytes"):
                    store.put("link", Stat(LINK), stream)  # type: ignore[arg-type]
        assert (store.to_bytes("a"), store.get_metadata("a"), store.exists("new")) == (b"one", {"n": "1"}, False)

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

    def test_what_is_written_anew_has_another_version(self, store: Store) -> None:
        seen: set[str | None] = set()
        for content in (b"one", b"two", b"six", b"sixteen", b""):
            store.set("a", (data(content), {"n": "1"}))
            told = store.read_version("a", 0, 100)
            assert (told.data, told.size, told.metadata) == (content, len(content), {"n": "1"})
            assert told.version is None or told.version not in seen
            seen.add(told.version)

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

    @pytest.mark.parametrize(("first", "second"), [("p/d/", "q/e/"), ("p/d/", "q/f"), ("p/d/", "p/g/"), ("p/", "q/")])
    def test_directories_are_counted_where_an_exchange_puts_them(self, store: Store, first: str, second: str) -> None:
        for key in ("p/d/x", "p/g/x", "q/e/x", "q/f"):
            store.set(key, (data(b"one"), {}))
        try:
            store.exchange(first, second)
        except Unsupported:
            pytest.skip("the store cannot exchange")
        for directory in ("p/", "q/"):
            below = sum(stat.is_directory for _, stat in store.list(directory))
            assert store.stat(directory).nlink in {1, 2 + below}  # 1: it is not known
        assert list(store.check()) == []

    def test_nothing_is_found_wrong_with_what_was_written(self, store: Store) -> None:
        for key in ("d/a", "d/e/b", "d/e/large"):
            store.set(key, (data(bytes(600_000) if key.endswith("large") else b"one"), {"n": key}))
        store.put("p", Stat(LINK), data(b"target"))
        store.rename("d/e/", "f/")
        store.delete("d/a")
        store.set("f/b", (data(b""), {}))
        assert list(store.check()) == []

    def test_links_of_directories_are_counted_or_one(self, store: Store) -> None:
        for key in ("x/d/a/f", "x/d/b/f", "x/d/file", "x/e/f"):
            store.set(key, (data(b""), {}))
        if store.stat("x/d/").nlink == 1:
            assert dict(store.list("x/"))["d"].nlink == 1
            return
        links: dict[str, int] = {"d": 4, "e": 2}
        self._check_links(store, links)
        store.rename("x/d/a/", "x/e/a/")
        self._check_links(store, {"d": 3, "e": 3})
        store.rename("x/d/b/", "x/d/c/")
        self._check_links(store, {"d": 3, "e": 3})
        store.delete("x/e/a/f")
        store.rename("x/d/c/", "x/e/a/")
        self._check_links(store, {"d": 2, "e": 3})
        made = store.make("x/e/new/", Stat(DIRECTORY))
        assert made.nlink == 2
        assert store.set_stat("x/e/", mode=0o700).nlink == 4
        store.delete("x/e/new/")
        self._check_links(store, {"d": 2, "e": 3})

    def _check_links(self, store: Store, links: dict[str, int]) -> None:
        assert {name: stat.nlink for name, stat in store.list("x/")} == links
        assert {name: store.stat(f"x/{name}/").nlink for name in links} == links
        assert {name: store.lookup(f"x/{name}").nlink for name in links} == links

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

    def test_what_is_put_as_another_kind_of_file_replaces_that_key_alone(self, store: Store) -> None:
        if not store.capabilities.hard_links:
            return
        store.set("a", (data(b"one"), {"n": "1"}))
        store.link("a", "b")
        store.put("a", new_stat(0o120777, os.geteuid(), os.getegid()), data(b"target"))
        assert (store.stat("a").is_symlink, store.stat("a").nlink, store.to_bytes("a")) == (True, 1, b"target")
        assert (store.stat("b").is_file, store.stat("b").nlink, store.to_bytes("b")) == (True, 1, b"one")

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

    def test_put_replaces_foreign_xattrs(self, store: Store) -> None:
        if not store.capabilities.xattrs:
            pytest.skip("no such attributes")
        for key in ("a", "linked", "d/"):
            store.put(key, Stat(DIRECTORY if key == "d/" else FILE), None)
        if store.capabilities.hard_links:
            store.link("linked", "other")
        for key in ("a", "linked", "d/"):
            try:
                store.set_xattr(key, "trusted.x", b"1")
            except PermissionError:
                pytest.skip("needs root, for trusted attributes")
            store.put(key, Stat(DIRECTORY if key == "d/" else FILE), None, xattrs={"trusted.y": b"2"})
            assert store.get_xattrs(key) == {"trusted.y": b"2"}, key

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

    def test_a_query_goes_on_when_what_it_would_find_is_gone(self, store: Store) -> None:
        for key in "abc":
            store.set(key, (data(b""), {"all": True}))
        for query in (store.query(), store.query(all=True)):
            store.set("b", (data(b""), {"all": True}))
            next(query)
            store.delete("b")
            assert {key for key, _ in query} <= {"a", "b", "c"}

    def test_queries_follow_every_change(self, store: Store) -> None:
        for key in ("d/a", "d/b", "c"):
            store.set(key, (data(b""), {"k": key, "all": True}))
        store.set_metadata("c", {"k": "changed", "all": True})
        store.rename("d/", "e/")
        store.delete("e/b")
        assert sorted(store.query_keys(all=True)) == ["c", "e/a"]
        assert list(store.query_keys(k="changed", all=True)) == ["c"]
        assert list(store.query_keys(k="d/b")) == list(store.query_keys(k="c")) == []

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
