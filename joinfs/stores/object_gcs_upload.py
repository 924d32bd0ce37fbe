"""Large objects go to Google Cloud Storage as resumable uploads: a part at a time, and nothing of it is seen until the last is there.

What is given up is told to the server, which forgets by itself, after a week, what nobody has ended.
"""

import contextlib
import io
import json
import re
from typing import Any, BinaryIO

from joinfs.errors import StoreUnavailable
from joinfs.stores.object_bucket import PART, PARTS_AT_A_TIME
from joinfs.stores.object_gcs_server import BUSY, Answer, GoogleServer
from joinfs.stores.value import MEBIBYTE, Chain, exactly

# Bytes of one request, of which two are in memory: a multiple of 256 KiB. They go one after the other.
SENT = PART * PARTS_AT_A_TIME // 2
# How often a part is sent on that breaks off.
TRIES = 5
# What the server has of an upload, if it has something.
_KEPT = re.compile(r"bytes=0-(\d+)")
_NOT_ENDED = 308


def send_parts(server: GoogleServer, path: str, resource: dict[str, Any], data: BinaryIO, first: bytes) -> Answer:
    """Make or replace an object, and answer what the server says of it; what is there stays if that fails.

    Args:
        server: Who is asked.
        path: Where an upload is begun.
        resource: What is to be said of it.
        data: The data after ``first``.
        first: The beginning of the data.

    Raises:
        StoreError: As for ``Bucket.put``; and what ``data`` raises.
    """
    kind = resource.get("contentType", "application/octet-stream")
    begun = server.ask("", "POST", path, json.dumps(resource).encode(), {"X-Upload-Content-Type": kind})
    if "Location" not in begun.headers:
        raise begun.nonsense()
    upload = _Upload(server, begun.headers["Location"], kind)
    try:
        return upload.send(io.BufferedReader(Chain(io.BytesIO(first), data), MEBIBYTE))
    except BaseException:
        with contextlib.suppress(Exception):
            server.send("DELETE", upload.place, once=True)
        raise


class _Upload:
    """An upload that was begun.

    Attributes:
        place: Its URL.
    """

    def __init__(self, server: GoogleServer, place: str, kind: str) -> None:
        self._server, self.place, self._kind = server, place, kind

    def send(self, data: BinaryIO) -> Answer:
        """Send all; the last part is known by there being nothing after it."""
        start, part = 0, exactly(data, SENT, SENT)
        while True:
            following = exactly(data, SENT, SENT) if len(part) == SENT else b""
            end = start + len(part)
            answer = self._send_part(part, start, "*" if following else str(end))
            if not following:
                return answer
            start, part = end, following

    def _send_part(self, part: bytes, start: int, total: str) -> Answer:
        """Send what the server has not got of a part until it has all of it."""
        kept, end = start, start + len(part)
        for left in reversed(range(TRIES)):
            answer = self._put(part[kept - start :], f"{kept}-{end - 1}", total) if kept < end else self._ask(total)
            if answer is None or answer.status in BUSY:
                if not left:
                    break
                answer = self._ask(total)
            if answer.status != _NOT_ENDED:
                break
            match = _KEPT.fullmatch(answer.headers.get("Range", ""))
            kept = max(start, int(match[1]) + 1) if match else start
            if kept == end and total == "*":
                return answer
        if answer is None or answer.status == _NOT_ENDED:
            raise StoreUnavailable("what is sent to a bucket breaks off again and again")
        if answer.status >= 300:
            raise self._server.refused("", answer)
        return answer

    def _put(self, data: bytes, place: str, total: str) -> Answer | None:
        """Send data, once: what the server has of it when that breaks off must be asked for first."""
        with contextlib.suppress(StoreUnavailable):
            return self._server.send("PUT", self.place, data, {"Content-Range": f"bytes {place}/{total}", "Content-Type": self._kind}, once=True)
        return None

    def _ask(self, total: str) -> Answer:
        """Ask how much the server has got."""
        return self._server.send("PUT", self.place, b"", {"Content-Range": f"bytes */{total}"})
