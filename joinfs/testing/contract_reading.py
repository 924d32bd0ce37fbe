"""The part of the contract that needs no writing, and what all parts of it use."""

import io
import stat as stat_module
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from joinfs.errors import (
    NotConnected,
    ReadOnly,
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


class ReadingContract:
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

    def test_the_root_is_looked_up_as_anything_is(self, filled: Store) -> None:
        assert filled.lookup("") == filled.stat("")

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

    @pytest.mark.parametrize("key", CONTENTS)
    def test_a_version_is_told_with_the_bytes_that_it_names(self, filled: Store, key: str) -> None:
        content = self.CONTENTS[key]
        for offset, size in ((0, len(content) + 5), (2, 3), (0, 0), (len(content), 5), (len(content) + 7, 1)):
            told = filled.read_version(key, offset, size)
            assert (told.data, told.size, told.metadata) == (content[offset : offset + size], len(content), {})
            assert told.version is None or told.version == filled.version(key)
        for missing in ("missing", "d/missing", f"{key}/below"):
            with pytest.raises(KeyError):
                filled.read_version(missing, 0, 1)
            with pytest.raises(KeyError):
                filled.version(missing)

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

    @pytest.mark.parametrize("directory", ["", "d/"])
    def test_a_listing_with_marks_is_the_listing(self, filled: Store, directory: str) -> None:
        marked = dict(filled.list_marked(directory, lambda *_: None))
        assert {name: told.stat for name, told in marked.items()} == dict(filled.list(directory))
        for name, told in marked.items():
            assert told.version is None or told.version == filled.version(directory + name)

        def known(name: str, mark: str) -> Stat | None:
            return marked[name].stat._replace(uid=77) if marked[name].mark == mark else None

        again = dict(filled.list_marked(directory, known))
        assert {name for name, told in again.items() if told.stat.uid == 77} == {name for name, told in marked.items() if told.mark is not None}
        with pytest.raises(KeyError):
            list(filled.list_marked("missing/", known))

    def test_listing_what_is_no_directory_is_a_missing_key(self, filled: Store) -> None:
        for wrong in ("missing/", "a/", "d/b/"):
            with pytest.raises(KeyError):
                list(filled.list(wrong))

    def test_a_missing_key_is_a_key_error(self, filled: Store) -> None:
        for key in ("missing", "d/missing", "missing/d/e", "a/below"):
            for method in (filled.stat, filled.get, filled.get_data, filled.get_metadata, filled.to_bytes, filled.get_xattrs):
                with pytest.raises(KeyError) as told:
                    method(key)
                assert told.value.args == (key,)
            with pytest.raises(KeyError):
                filled.read(key, 0, 1)
        with pytest.raises(KeyError):
            list(filled.multiget(iter(["a", "missing"])))
        assert not filled.exists("missing")

    @pytest.mark.parametrize("key", ["../a", "d/../a", "./a", "d//b", "/a", "/", "//", "a\0", "\ud800", "x" * 300])
    def test_what_is_no_key_is_missing(self, filled: Store, key: str) -> None:
        assert not filled.exists(key)
        with pytest.raises(KeyError):
            filled.get(key)

    def test_keys_and_queries_answer_values_and_no_directories(self, filled: Store) -> None:
        assert sorted(filled.query_keys()) == sorted(self.CONTENTS)
        assert dict(filled.query()) == {key: {} for key in self.CONTENTS}
        assert sorted(filled.keys("d/")) == ["d/b", "d/s/c"]
        assert list(filled.keys("d")) == list(filled.keys("missing/")) == []
        for nothing in ({"a\0b": 1}, {"x": "\ud800"}, {"\ud800": "1"}, {"": 1}, {"x": object()}):
            assert list(filled.query(**nothing)) == []
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


class ReadOnlyContract(ReadingContract):
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
