"""A store as a mapping keeps what mappings promise, and what stores do."""

import io
import os
import subprocess
import sys
from collections.abc import MutableMapping

import pytest

import joinfs
from joinfs.errors import IsADirectory, ReadOnly


@pytest.fixture
def store(first, lower):
    with joinfs.JoinedStore([joinfs.open_store(first), joinfs.open_store(lower)]) as store:
        yield store


def test_it_is_a_mapping_as_a_dict_is_one(store):
    mapping, plain = joinfs.as_mapping(store), {}
    assert isinstance(mapping, MutableMapping)
    for each in (mapping, plain):
        each["a"] = b"1"
        each.update({"b/c": b"2", "b/d/e": b"3"})
        each["a"] = b"4"
        assert each.pop("b/c") == b"2"
        assert each.pop("b/c", None) is None
        assert each.setdefault("f", b"5") == b"5"
        assert "b/d/e" in each
        assert "b" not in each
        assert 5 not in each
        assert each.get("b/d") is None
        with pytest.raises(KeyError):
            del each["b/c"]
        with pytest.raises(KeyError):
            each["a/below a file"]
    assert mapping == plain
    assert len(mapping) == 3
    assert sorted(mapping) == ["a", "b/d/e", "f"]
    mapping.clear()
    assert not mapping


def test_a_part_of_a_store(store, lower):
    (lower / "x/y").mkdir(parents=True)
    (lower / "x/y/z").write_text("below")
    (lower / "above").write_text("not in it")
    part = joinfs.as_mapping(store, "x")
    part["new"] = memoryview(b"bytes")
    del part["y/z"]
    assert dict(part) == {"new": b"bytes"}
    assert dict(joinfs.as_mapping(store)) == {"above": b"not in it", "x/new": b"bytes"}
    assert (lower / "x/y/z").exists()
    assert dict(joinfs.as_mapping(store, "not/there")) == {}


@pytest.mark.parametrize("name", ["", "a/", "d", "no", "a/b", "..", "a//b", "\0", None, ("a",)])
def test_what_is_no_file_is_no_key(store, lower, name):
    (lower / "a").touch()
    (lower / "d").mkdir()
    mapping = joinfs.as_mapping(store)
    assert name not in mapping
    with pytest.raises(KeyError):
        mapping[name]
    with pytest.raises(KeyError):
        del mapping[name]
    assert mapping.get(name, "default") == "default"


def test_links_are_followed_within_the_store(store, lower):
    (lower / "file").write_text("1")
    (lower / "link").symlink_to("file")
    (lower / "out").symlink_to("/etc/passwd")
    (lower / "dangling").symlink_to("nothing")
    (lower / "loop").symlink_to("loop")
    (lower / "through").symlink_to("file/x")
    (lower / "directory").symlink_to(".")
    mapping = joinfs.as_mapping(store)
    assert dict(mapping) == {"file": b"1", "link": b"1"}
    assert mapping["directory/directory/link"] == b"1"
    mapping["link"] = b"2"
    assert mapping["file"] == b"2"
    del mapping["link"]
    assert list(mapping) == ["file"]


def test_what_the_store_refuses_it_says(lower):
    (lower / "d").mkdir()
    with joinfs.open_store(lower) as store, joinfs.open_store(lower, read_only=True) as fixed:
        with pytest.raises(IsADirectory):
            joinfs.as_mapping(store)["d"] = b""
        with pytest.raises(IsADirectory):
            joinfs.as_mapping(store)[""] = b""
        with pytest.raises(ReadOnly):
            joinfs.as_mapping(fixed)["a"] = b""
        with pytest.raises(ValueError, match="cannot be part of a key"):
            joinfs.as_mapping(store)["../x"] = b""


def test_setting_keeps_metadata(store):
    store.set("a", (io.BytesIO(b"1"), {"author": "mel"}))
    joinfs.as_mapping(store)["a"] = b"2"
    assert store.get_metadata("a") == {"author": "mel"}


def test_it_needs_no_library():
    program = "import sys, joinfs; joinfs.as_mapping(joinfs.MemoryStore()); sys.exit('fsspec' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
