"""A mount of a web server's files with a cache, and without the server. SEMANTICS.md, Caches on disk."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request

import pytest


@contextlib.contextmanager
def served(directory, port):
    """Python's own web server, which lists nothing and knows no ranges."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", directory, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert "Serving" in process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_what_was_read_is_there_without_the_server(mount, scratch, upper):
    pytest.importorskip("httpx")
    place = scratch / "served"
    (place / "d").mkdir(parents=True)
    contents = {"a": b"a" * 700_000, "d/b": b"bee\n", "d/never": b"never\n"}
    for name, content in contents.items():
        (place / name).write_bytes(content)
        os.utime(place / name, (1_500_000_000, 1_500_000_000))
    (place / "files.json").write_text(json.dumps([{"name": name, "size": len(content), "mtime": 1_500_000_000} for name, content in contents.items()]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/files.json?cache={scratch}/cache&cache_ttl=1"
    with served(place, port), mount(upper, url) as mnt:
        assert sorted(os.listdir(mnt / "d")) == ["b", "never"]
        assert [(mnt / name).read_bytes() for name in ("a", "d/b")] == [contents["a"], contents["d/b"]]
        figures = (mnt / ".joinfs" / "stats").read_text()
        (layer,) = [line for line in figures.splitlines() if line.startswith("joinfs_cache_blocks_total") and 'kind="misses"' in line]
        assert 'layer="1"' in layer
        assert int(layer.split()[-1]) >= 2
        (mnt / "d" / "b").write_bytes(b"changed")
    with mount(upper, url) as mnt:
        assert sorted(os.listdir(mnt / "d")) == ["b", "never"]
        assert [(mnt / name).read_bytes() for name in ("a", "d/b")] == [contents["a"], b"changed"]
        with pytest.raises(OSError, match="Input/output error"):
            (mnt / "d" / "never").read_bytes()
        with served(place, port):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/d/never", timeout=20).read() == b"never\n"
            assert (mnt / "d" / "never").read_bytes() == b"never\n"
