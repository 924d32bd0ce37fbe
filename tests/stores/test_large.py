"""Values that are larger than the memory that there is for them. SEMANTICS.md, Large values."""

import os
import shutil
import tempfile
import textwrap

import pytest

# What the promise is of; a user's machine need have neither so much room nor so much time for a test.
ROOM = shutil.disk_usage(tempfile.gettempdir()).free
SIZE = (4 << 30) + 7 if os.environ.get("CI") and ROOM > 30 << 30 else (256 << 20) + 7

PROGRAM = """
import io, os, sys

class Source(io.RawIOBase):
    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def read(self, size=-1):
        size = min(size, self.left, 1 << 20)
        self.left -= size
        return (b"%016d" % self.left * (size // 16 + 1))[:size]

kind, place, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(place)
os.mkdir("lower")
os.mkdir("upper")
if kind == "encore":
    from encore.storage.filesystem_store import FileSystemStore, init_shared_store
    init_shared_store("upper")
store = {
    "directory": lambda: joinfs.DirectoryStore("upper"),
    "sqlite": lambda: joinfs.SQLiteStore("upper.db"),
    "encore": lambda: joinfs.EncoreStore(FileSystemStore("upper")),
    "join": lambda: joinfs.JoinedStore([joinfs.SQLiteStore("upper.db"), joinfs.DirectoryStore("lower")]),
}[kind]()
with store:
    store.set_data("a", Source(size))
    store.to_file("a", "file")
    store.from_file("a", "file")
    assert store.stat("a").size == os.path.getsize("file") == size
    keys = ["a"]
    if kind == "join":
        os.link("file", "lower/low")
        store.update_metadata("low", {"copied": "up"})
        assert store.layers[0].stat("low").size == size
        keys.append("low")
    with open("file", "rb") as file:
        for offset in (0, 1 << 20, size // 2, size - 10):
            file.seek(offset)
            expected = file.read(10)
            assert expected and all(store.read(key, offset, 10) == expected for key in keys), offset
print("done")
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["directory", "sqlite", "encore", "join"])
def test_a_large_value_goes_through_in_bounded_memory(kind, tmp_path, in_bounded_memory):
    try:
        assert in_bounded_memory(textwrap.dedent(PROGRAM), 64, kind, tmp_path, SIZE, timeout=800) == "done\n"
    finally:
        shutil.rmtree(tmp_path)
