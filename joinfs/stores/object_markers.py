"""Markers of directories: objects ``a/`` without data, which have the attributes of the directory.

SeaweedFS keeps of a marker nothing but its ``Content-Type``. Where a server is seen to lose the rest, what would be
user metadata stands in a parameter of that, as JSON in base64: ``application/x-directory; joinfs="eyJ..."``.
"""

import base64
import io
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joinfs.stores.object_bucket import Bucket, Found

# What s3fs and Nextcloud have directories say.
TYPES = {"application/x-directory", "httpd/unix-directory"}
TYPE = "application/x-directory"
_PARAMETER = re.compile(r';\s*joinfs="([A-Za-z0-9_=-]+)"', re.ASCII)


class Markers:
    """Writes markers such that what they say can be read again."""

    def __init__(self, bucket: "Bucket") -> None:
        self._bucket = bucket
        self._loses_metadata: bool | None = None

    def put(self, name: str, headers: dict[str, str]) -> "Found":
        """Make or replace a marker; as ``Bucket.put``. The first is looked at, to see whether all of it was kept."""
        written = self._put(name, headers)
        if self._loses_metadata is None:
            self._loses_metadata = self._bucket.head(name).headers != headers
            if self._loses_metadata:
                written = self._put(name, headers)
        return written

    def _put(self, name: str, headers: dict[str, str]) -> "Found":
        kind = typed(headers) if self._loses_metadata else TYPE
        return self._bucket.put(name, io.BytesIO(), headers, {"ContentType": kind})


def typed(headers: dict[str, str]) -> str:
    """Answer a ``Content-Type`` that has the user metadata in it."""
    return f'{TYPE}; joinfs="{base64.urlsafe_b64encode(json.dumps(headers).encode()).decode()}"'


def told(content_type: str) -> dict[str, str]:
    """Answer the user metadata that a ``Content-Type`` has in it; nothing if it is not as we write it."""
    match = _PARAMETER.search(content_type)
    try:
        headers = json.loads(base64.urlsafe_b64decode(match[1])) if match else {}
        return {str(name): str(value) for name, value in headers.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
