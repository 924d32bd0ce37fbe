"""Figures of a mount in the text format of Prometheus.

See Also:
    https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator
from typing import Any

_OF_REQUESTS = (
    ("requests_total", "requests", "Requests of the kernel. What it reads and writes past the server is not among them."),
    ("request_seconds_total", "seconds", "Seconds that answering these took."),
    ("request_bytes_received_total", "received", "Bytes of these, where the driver sees them."),
    ("request_bytes_sent_total", "sent", "Bytes of the answers, where the driver sees them."),
)


def prometheus(status: dict[str, Any]) -> str:
    """Answer the figures that the request ``status`` answers, as metrics."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    yield from _metric("uptime_seconds", "gauge", "Seconds since it was mounted.", status["seconds"])
    yield from _metric("free_bytes", "gauge", "Room in the first store; 0 with joinfs_bytes 0 is one without bounds.", status["bytes_free"])
    yield from _metric("bytes", "gauge", "Room that it has, and that is taken, in all.", status["bytes"])
    yield from _metric("open_files", "gauge", "Open files.", status.get("open_files", 0))
    yield from _metric("nodes", "gauge", "Files and directories that are remembered.", status.get("nodes", 0))
    yield from _metric("staged_files", "gauge", "Files that are not in the first store yet.", len(status.get("staged", {})))
    yield from _metric("staged_bytes", "gauge", "Bytes of these.", sum(status.get("staged", {}).values()))
    yield from _requests(status.get("requests", {}))
    yield "# HELP joinfs_layer_bytes Size of each store that is one file."
    yield "# TYPE joinfs_layer_bytes gauge"
    for layer in status["layers"]:
        if layer["size"] is not None:
            yield f'joinfs_layer_bytes{{layer="{layer["layer"]}",name="{_escaped(layer["name"])}"}} {layer["size"]}'
    yield from _caches(status["layers"])
    yield "# HELP joinfs_waiting_files Files that are to be sent to a store with ?writeback=."
    yield "# TYPE joinfs_waiting_files gauge"
    for layer in status["layers"]:
        if "waiting" in layer:
            yield f'joinfs_waiting_files{{layer="{layer["layer"]}",name="{_escaped(layer["name"])}"}} {layer["waiting"]}'


def _caches(layers: list[dict[str, Any]]) -> Iterator[str]:
    yield "# HELP joinfs_cache_blocks_total Blocks of data that were in a store's cache when they were wanted (hits), and were not (misses)."
    yield "# TYPE joinfs_cache_blocks_total counter"
    for layer in layers:
        for kind, count in layer.get("cache", {}).items():
            yield f'joinfs_cache_blocks_total{{layer="{layer["layer"]}",name="{_escaped(layer["name"])}",kind="{kind}"}} {count}'


def _requests(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    for name, field, about in _OF_REQUESTS:
        yield f"# HELP joinfs_{name} {about}"
        yield f"# TYPE joinfs_{name} counter"
        for verb, row in sorted(rows.items()):
            yield f'joinfs_{name}{{verb="{verb}"}} {row[field]}'


def _metric(name: str, kind: str, about: str, value: float) -> Iterator[str]:
    yield f"# HELP joinfs_{name} {about}"
    yield f"# TYPE joinfs_{name} {kind}"
    yield f"joinfs_{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
