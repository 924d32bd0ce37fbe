"""A bucket of Google Cloud Storage: the requests of its JSON API that a store makes, and what is answered.

The version of an object is its generation; that of its metadata, which are changed in place, its metageneration.
"""

import contextlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from joinfs.errors import StoreUnavailable
from joinfs.stores.object_bucket import PART, SYSTEM, Bucket, Found, Listed, nanoseconds
from joinfs.stores.object_gcs_server import Answer, GoogleServer
from joinfs.stores.object_gcs_upload import send_parts
from joinfs.stores.object_markers import told
from joinfs.stores.value import exactly

# Objects that one request deletes.
MOST_DELETED = 100
# Of how many objects is remembered what was said: a read tells but the generation, and whether the rest changed.
MOST_REMEMBERED = 50_000
# How often data is read anew because it was replaced before the rest was told.
MOST_REPLACED = 8
# What is asked of an object.
_FIELDS = ",".join(["name", "size", "generation", "metageneration", "updated", "metadata", *(name[0].lower() + name[1:] for name in SYSTEM)])
_STATUS = re.compile(rb"^HTTP/[\d.]+ (\d+)", re.MULTILINE)


class GoogleBucket(Bucket):
    """A bucket of Google's; arguments, attribute and errors as for ``GoogleServer``."""

    no_version = "1"

    def __init__(self, name: str, endpoint: str, credentials: Any, read_only: bool, timeout: float, tries: int) -> None:
        self._server = GoogleServer(name, endpoint, credentials, read_only, timeout, tries)
        self._path = f"/storage/v1/b/{name}/o"
        self._remembered: OrderedDict[str, Found] = OrderedDict()

    @property
    def is_for_reading(self) -> bool:
        return self._server.is_for_reading

    def close(self) -> None:
        self._server.close()

    def _object(self, name: str) -> str:
        return f"{self._path}/{quote(name, safe='')}"

    def _heard(self, said: dict[str, Any], answer: Answer) -> Found:
        """What a server says of an object; it is remembered for reads."""
        try:
            found = _found(said, answer.asked())
            self._remembered[said["name"]] = found
        except (KeyError, ValueError, TypeError, AttributeError):
            raise answer.nonsense() from None
        while len(self._remembered) > MOST_REMEMBERED:
            with contextlib.suppress(KeyError):  # another thread was first
                self._remembered.popitem(last=False)
        return found

    # ---------------------------------------------------------------- reading

    def head(self, name: str) -> Found:
        answer = self._server.ask(name, "GET", _with(self._object(name), fields=_FIELDS))
        return self._heard(answer.json(), answer)

    def read(self, name: str, offset: int, size: int, etag: str = "") -> tuple[bytes, Found]:
        path = "/download" + _with(self._object(name), alt="media", ifGenerationMatch=etag)
        for _ in range(MOST_REPLACED):
            answer = self._server.send("GET", path, headers={"Range": f"bytes={offset}-{offset + size - 1}"})
            if answer.status == 416:
                found = self.head(name)
                if offset >= found.size:  # at its end, or past it; else it was replaced in between
                    return b"", found
                continue
            if answer.status >= 300:
                raise self._server.refused(name, answer)
            said = self._of(name, answer)
            if said is not None:
                return _body(answer, offset, size), said
        raise StoreUnavailable(f"{name!r} is replaced by others all the time")

    def _of(self, name: str, answer: Answer) -> Found | None:
        """What there is to say of the object that data was read of, asked for if it is not known; None if it is replaced by now."""
        etag, revision = (answer.headers.get(f"X-Goog-{what}", "") for what in ("Generation", "Metageneration"))
        found = self._remembered.get(name)
        if found is not None and revision and (found.etag, found.revision) == (etag, revision):
            return found._replace(asked=answer.asked())
        found = self.head(name)
        return found if etag in {"", found.etag} else None

    def pages(self, prefix: str, delimiter: str = "", limit: int = 1000) -> Iterator[list[Listed]]:
        """The same. All that there is to know of an object is told."""
        asked = {"prefix": prefix, "maxResults": str(limit), "fields": f"prefixes,nextPageToken,items({_FIELDS})"}
        if delimiter:
            asked |= {"delimiter": delimiter, "includeTrailingDelimiter": "true"}
        while True:
            answer = self._server.ask("", "GET", _with(self._path, **asked))
            page = answer.json()
            heard = [(self._heard(said, answer), said["name"]) for said in page.get("items", ())]
            items = {name: Listed.with_all(name, found) for found, name in heard}
            # A prefix that is an object itself is among both.
            yield [items.get(name) or Listed(name) for name in sorted({*items, *page.get("prefixes", ())})]
            if not page.get("nextPageToken"):
                return
            asked["pageToken"] = page["nextPageToken"]

    # ---------------------------------------------------------------- writing

    def put(self, name: str, data: BinaryIO, headers: dict[str, str], system: dict[str, str], size: int = 0, etag: str | None = None) -> Found:
        first, resource = exactly(data, PART, PART), {"name": name, **_resource(headers, system)}
        if len(first) == PART:
            answer = send_parts(self._server, _with(f"/upload{self._path}", uploadType="resumable", fields=_FIELDS), resource, data, first)
            return self._heard(answer.json(), answer)
        condition = {} if etag is None else {"ifGenerationMatch": etag or "0"}
        path = _with(f"/upload{self._path}", uploadType="multipart", fields=_FIELDS, **condition)
        answer = self._server.send("POST", path, *_multipart(resource, first))
        if answer.status == 412 and answer.again and (ours := self._is_ours(name, headers, len(first))):
            return ours
        if answer.status >= 300:
            raise self._server.refused("", answer)
        return self._heard(answer.json(), answer)

    def _is_ours(self, name: str, headers: dict[str, str], size: int) -> Found | None:
        """What was written, though the answer to that was lost, and the second try found the first one there."""
        with contextlib.suppress(KeyError):
            found = self.head(name)
            return found if (found.headers, found.size) == (headers, size) else None
        return None

    def copy(self, old: str, new: str, found: Found, headers: dict[str, str] | None = None) -> Found:
        """The same. Metadata alone is changed in place, and only if others have not done so since."""
        if old == new:
            return self._patch(old, found, found.headers if headers is None else headers)
        return self._rewrite(old, new, found, headers)

    def _rewrite(self, old: str, new: str, found: Found, headers: dict[str, str] | None) -> Found:
        """Have the server copy an object, in as many steps as it takes; without ``headers``, as it is."""
        path = f"{self._object(old)}/rewriteTo{self._object(new).removeprefix('/storage/v1')}"
        asked = {"ifSourceGenerationMatch": found.etag, "ifSourceMetagenerationMatch": found.revision, "fields": f"done,rewriteToken,resource({_FIELDS})"}
        body = None if headers is None else json.dumps(_resource(headers, found.system)).encode()
        while True:
            answer = self._server.ask(old, "POST", _with(path, **asked), body)
            made = answer.json()
            if made.get("done"):
                return self._heard(made.get("resource", {}), answer)
            if not made.get("rewriteToken"):
                raise answer.nonsense()
            asked["rewriteToken"] = made["rewriteToken"]

    def _patch(self, name: str, found: Found, headers: dict[str, str]) -> Found:
        """Give the version ``found`` of an object other user metadata: a name that is not to stay is told to go."""
        revision, gone = found.revision, [other for other in found.headers if other not in headers]
        for _ in range(2):
            path = _with(self._object(name), ifGenerationMatch=found.etag, ifMetagenerationMatch=revision, fields=_FIELDS)
            answer = self._server.ask(name, "PATCH", path, json.dumps({"metadata": {**dict.fromkeys(gone), **headers}}).encode())
            said = answer.json()
            # Others may have written them with capitals, which we do not keep.
            gone = [other for other in said.get("metadata", {}) if other not in headers]
            if not gone:
                return self._heard(said, answer)
            revision = said.get("metageneration", "")
        # fake-gcs-server drops none.
        return self._rewrite(name, name, found._replace(revision=revision), headers)

    def delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), MOST_DELETED):
            batch = names[start : start + MOST_DELETED]
            if len(batch) == 1 or not self._delete_batch(batch):
                for name in batch:
                    with contextlib.suppress(KeyError):
                        self._server.ask(name, "DELETE", self._object(name))
        for name in names:
            self._remembered.pop(name, None)

    def _delete_batch(self, names: Sequence[str]) -> bool:
        """Delete objects with one request; answer whether none of them was refused."""
        boundary = secrets.token_hex(16)
        calls = [f"--{boundary}\r\nContent-Type: application/http\r\n\r\nDELETE {self._object(name)} HTTP/1.1\r\n\r\n" for name in names]
        body = "".join([*calls, f"--{boundary}--\r\n"]).encode()
        answer = self._server.send("POST", "/batch/storage/v1", body, {"Content-Type": f"multipart/mixed; boundary={boundary}"})
        statuses = [int(status) for status in _STATUS.findall(answer.data)]
        return answer.status == 200 and len(statuses) == len(names) and all(status in {200, 204, 404} for status in statuses)


def _with(path: str, **asked: str) -> str:
    """A path with what is asked for in its query; what is empty is left out."""
    return f"{path}?{urlencode({name: value for name, value in asked.items() if value})}"


def _found(said: dict[str, Any], asked: int) -> Found:
    system = {name: value for name in SYSTEM if (value := said.get(name[0].lower() + name[1:]))}
    headers = {name.lower(): str(value) for name, value in said.get("metadata", {}).items()} | told(system.get("ContentType", ""))
    updated = nanoseconds(datetime.fromisoformat(said["updated"]))
    return Found(int(said.get("size", 0)), str(said["generation"]), updated, headers, system, asked, str(said.get("metageneration", "")))


def _resource(headers: dict[str, str], system: dict[str, str]) -> dict[str, Any]:
    """What is to be said of an object, in the words of the JSON API."""
    return {"metadata": headers, **{name[0].lower() + name[1:]: value for name, value in system.items()}}


def _multipart(resource: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of two parts, what is said of an object and its data, and what is to be said of that body."""
    boundary = secrets.token_hex(16)
    before = f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n--{boundary}\r\n"
    kind = resource.get("contentType", "application/octet-stream")
    body = b"".join([f"{before}Content-Type: {kind}\r\n\r\n".encode(), data, f"\r\n--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/related; boundary={boundary}"}


def _body(answer: Answer, offset: int, size: int) -> bytes:
    """The range that was asked for, of what was sent."""
    start = offset if answer.status == 206 else 0
    if len(answer.data) > offset - start + size:
        raise StoreUnavailable("a bucket's server takes no notice of the range that it is asked for")
    return answer.data[offset - start :][:size]
