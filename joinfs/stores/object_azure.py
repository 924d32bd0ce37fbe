"""A container of Azure's Blob Storage: the requests that a store makes of it, and what their failures mean.

Microsoft's own client is used. obstore takes no names of metadata with ``-`` here, and no name that ends in ``/``.
"""

import contextlib
import io
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from joinfs.errors import AccessDenied, OutOfSpace, StoreError, StoreUnavailable, UsageError
from joinfs.stores.object_bucket import (
    CONNECTIONS,
    PART,
    PARTS_AT_A_TIME,
    SYSTEM,
    Bucket,
    Changed,
    Found,
    Listed,
    moment_in,
    nanoseconds,
)
from joinfs.stores.object_markers import told
from joinfs.stores.value import MEBIBYTE, Chain, exactly

# Azure takes so many parts of an object.
MOST_PARTS = 50_000
# Blobs that one request deletes.
MOST_DELETED = 256
_RETRY_AFTER = 0.5
# Seconds between two looks at a copy that is not made at once.
_LOOK = 0.2
_OTHER_VERSION = {"ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists", "UnauthorizedBlobOverwrite"}
_FULL = {"MetadataTooLarge", "RequestBodyTooLarge", "BlockCountExceedsLimit"}
_NAME = re.compile(r"^_(?=\d)", re.ASCII)
_CONTAINER = re.compile(r"\$(root|web|logs)|(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)


class AzureBucket(Bucket):
    """A container.

    Args:
        name: The container.
        account: Of which account; empty for ``AZURE_STORAGE_ACCOUNT`` or what a connection string says.
        endpoint: URL of the server; empty for Azure's own, or what a connection string says.
        credentials: The account's key, a SAS token, or any credential of azure-identity's; None for the ecosystem's usual places, which are
            ``AZURE_STORAGE_CONNECTION_STRING``, ``AZURE_STORAGE_KEY``, ``AZURE_STORAGE_SAS_TOKEN``, and then azure-identity, if it is installed.
        timeout: Seconds for which the server may send nothing.
        tries: How often a request that fails is made.

    Raises:
        UsageError: The client is not installed, or there is no making sense of account, credentials or endpoint.
    """

    def __init__(self, name: str, account: str, endpoint: str, credentials: Any, timeout: float, tries: int) -> None:
        self._azure, self._core, self._unchanged = _library()
        self._name = name
        if not _CONTAINER.fullmatch(name):
            raise UsageError(f"{name!r} is no container of Azure's: those have 3 to 63 small letters and digits, and single '-' between them")
        try:
            self._service: Any = self._connected(account, endpoint, credentials, timeout, tries)
            self._container: Any = self._service.get_container_client(name)
        except ValueError as error:
            raise UsageError(f"container {name} cannot be asked for: {error}") from None

    def _connected(self, account: str, endpoint: str, credentials: Any, timeout: float, tries: int) -> Any:
        how = {
            "connection_timeout": timeout,
            "read_timeout": timeout,
            "retry_policy": self._azure.LinearRetry(backoff=_RETRY_AFTER, retry_total=tries - 1, random_jitter_range=0),
            "transport": _transport(timeout),
            "max_single_put_size": PART,
            "max_block_size": PART,
            # One request, one answer: it would ask for the rest of much with further ones.
            "max_single_get_size": 1 << 40,
        }
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        if text and credentials is None and not account and not endpoint:
            return self._azure.BlobServiceClient.from_connection_string(text, **how)
        account = account or os.environ.get("AZURE_STORAGE_ACCOUNT", "")
        if not (endpoint or account):
            raise UsageError("say which account of Azure's: az://CONTAINER/PREFIX?account=NAME, or AZURE_STORAGE_ACCOUNT")
        if account and not _ACCOUNT.fullmatch(account):
            raise UsageError(f"{account!r} is no account of Azure's: those have 3 to 24 small letters and digits")
        url = endpoint or f"https://{account}.blob.core.windows.net"
        return self._azure.BlobServiceClient(url, credential=_credential(account, credentials), **how)

    def close(self) -> None:
        self._service.close()

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[Any]:
        """Around requests: gives the container, and what fails is one of ours."""
        try:
            yield self._container
        except self._core.HttpResponseError as error:
            raise self._refused(name, error) from None
        except self._core.AzureError as error:
            raise StoreUnavailable(f"container {self._name} cannot be reached: {error}") from error

    def _refused(self, name: str, error: Any) -> Exception:
        given, status = getattr(error, "error_code", None) or "", error.status_code
        code = str(getattr(given, "value", given))
        if status is None:  # it was not even asked
            return AccessDenied(f"container {self._name} cannot be asked with these credentials: {error}")
        words = f"container {self._name} answers {code or status}: {str(error.reason or error.message or '').strip().partition(chr(10))[0]}"
        if code == "ContainerNotFound":
            return StoreUnavailable(f"there is no container {self._name}")
        if status in {401, 403}:
            return AccessDenied(words)
        if status == 412 or code in _OTHER_VERSION:
            return Changed(words)
        if status == 404:
            return KeyError(name)
        return OutOfSpace(words) if code in _FULL or status == 507 else StoreUnavailable(words)

    # ---------------------------------------------------------------- reading

    def head(self, name: str) -> Found:
        answer = _Answer()
        with self._asking(name) as container:
            said = container.get_blob_client(name).get_blob_properties(raw_response_hook=answer)
        return _found(said, said.size, answer.asked())

    def read(self, name: str, offset: int, size: int, etag: str = "") -> tuple[bytes, Found]:
        answer, condition = _Answer(), self._only(etag) if etag else {}
        with self._asking(name) as container:
            try:
                got = container.get_blob_client(name).download_blob(offset, size, raw_response_hook=answer, **condition)
                data = got.readall()
            except self._core.HttpResponseError as error:
                if error.status_code != 416:
                    raise
                return b"", self.head(name)  # at its end, or past it
        return data, _found(got.properties, answer.whole(), answer.asked())

    def _only(self, etag: str) -> dict[str, Any]:
        return {"etag": etag, "match_condition": self._unchanged}

    def pages(self, prefix: str, delimiter: str = "", limit: int = 1000) -> Iterator[list[Listed]]:
        """The same. All that there is to know of a blob is told."""
        answer = _Answer()
        given = {"name_starts_with": prefix or None, "results_per_page": limit, "include": ["metadata"], "raw_response_hook": answer}
        with self._asking(prefix) as container:
            asked = container.walk_blobs(delimiter=delimiter, **given) if delimiter else container.list_blobs(**given)
            for page in asked.by_page():
                yield sorted(_listed(entry, answer.asked()) for entry in page)

    # ---------------------------------------------------------------- writing

    def put(self, name: str, data: BinaryIO, headers: dict[str, str], system: dict[str, str], size: int = 0, etag: str | None = None) -> Found:
        answer = _Answer()
        given = {"metadata": _to_azure(headers), "content_settings": self._settings(system), "raw_response_hook": answer}
        first = exactly(data, PART, PART)
        with self._asking(name) as container:
            blob = container.get_blob_client(name)
            if len(first) == PART:
                size = self._put_parts(blob, given, data, first, size)
            else:
                size = len(first)
                condition = {"overwrite": etag is None} if not etag else {"overwrite": True, **self._only(etag)}
                blob.upload_blob(first, length=size, **given, **condition)
        return Found(size, answer.etag(), answer.changed(), headers, system, answer.asked())

    def _put_parts(self, blob: Any, given: dict[str, Any], data: BinaryIO, first: bytes, size: int) -> int:
        """Make a blob of blocks; until the last is there nothing of it is seen, and the server throws away what is never made a blob."""
        if size > PART * MOST_PARTS:
            raise OutOfSpace(f"a blob has room for {PART * MOST_PARTS} bytes here, and this is {size}")
        counted = _Counted(Chain(io.BytesIO(first), data))
        blob.upload_blob(io.BufferedReader(counted, MEBIBYTE), overwrite=True, max_concurrency=PARTS_AT_A_TIME, **given)
        return counted.count

    def _settings(self, system: dict[str, str]) -> Any:
        return self._azure.ContentSettings(**{_setting(name): value for name, value in system.items()})

    def copy(self, old: str, new: str, found: Found, headers: dict[str, str] | None = None) -> Found:
        """The same. Metadata alone is changed in place, as Azure can."""
        kept, answer = found.headers if headers is None else headers, _Answer()
        with self._asking(old) as container:
            blob = container.get_blob_client(new)
            if old == new:
                blob.set_blob_metadata(_to_azure(kept), raw_response_hook=answer, **self._only(found.etag))
            else:
                source = container.get_blob_client(old).url
                only = {"source_etag": found.etag, "source_match_condition": self._unchanged}
                made = blob.start_copy_from_url(source, metadata=_to_azure(kept), raw_response_hook=answer, **only)
                if made["copy_status"] != "success":
                    self._await_copy(blob, made["copy_id"])
                    return self.head(new)
        return Found(found.size, answer.etag(), answer.changed(), kept, found.system, answer.asked())

    def _await_copy(self, blob: Any, number: str) -> None:
        """Wait for a copy that the server makes by and by."""
        while True:
            made = blob.get_blob_properties().copy
            if made.id != number or made.status == "success":
                return
            if made.status != "pending":
                raise StoreError(f"container {self._name} does not copy {blob.blob_name!r}: {made.status_description or made.status}")
            time.sleep(_LOOK)

    def delete(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            with self._asking(names[0]) as container, contextlib.suppress(self._core.ResourceNotFoundError):
                container.delete_blob(names[0])
            return
        for start in range(0, len(names), MOST_DELETED):
            batch = names[start : start + MOST_DELETED]
            with self._asking(batch[0]) as container:
                answers = list(container.delete_blobs(*batch, raise_on_any_failure=False))
            for name, answer in zip(batch, answers, strict=True):
                if answer.status_code not in {202, 404}:
                    raise StoreError(f"container {self._name} does not delete {name!r}: {answer.status_code} {answer.reason}")


class _Answer:
    """What the last answer to a request says in its headers."""

    def __init__(self) -> None:
        self._headers: Any = {}

    def __call__(self, response: Any) -> None:
        self._headers = response.http_response.headers

    def etag(self) -> str:
        return _quoted(self._headers.get("ETag", ""))

    def asked(self) -> int:
        """When the server answered, by its own clock, in nanoseconds."""
        return moment_in(self._headers.get("Date", ""))

    def changed(self) -> int:
        """When the blob was changed, in nanoseconds."""
        return moment_in(self._headers.get("Last-Modified", ""))

    def whole(self) -> int:
        """Bytes of the whole blob of which this is a range."""
        size = self._headers.get("Content-Range", "").rpartition("/")[2]
        return int(size) if size.isdigit() else int(self._headers.get("Content-Length", 0))


class _Counted(io.RawIOBase):
    """A stream that counts what was read of it.

    Attributes:
        count: In bytes.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream, self.count = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


def _library() -> tuple[Any, Any, Any]:
    try:
        import azure.core.exceptions as failures  # noqa: PLC0415 - an extra
        import azure.storage.blob as blobs  # noqa: PLC0415
        from azure.core import MatchConditions  # noqa: PLC0415
    except ImportError:
        raise UsageError("containers of Azure's need a library; install it with: pip install 'joinfs[azure]'") from None
    # It would tell each request.
    logging.getLogger("azure").setLevel(logging.WARNING)
    return blobs, failures, MatchConditions.IfNotModified


def _transport(timeout: float) -> Any:
    """Connections, of which as many are kept as are used at a time."""
    import requests  # noqa: PLC0415 - comes with the extra
    from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    return RequestsTransport(session=session, session_owner=True, connection_timeout=timeout, read_timeout=timeout)


def _credential(account: str, credentials: Any) -> Any:
    if credentials is None:
        credentials = os.environ.get("AZURE_STORAGE_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN") or _identity()
    if isinstance(credentials, str) and "sig=" not in credentials and account:
        return {"account_name": account, "account_key": credentials}
    return credentials


def _identity() -> Any:
    """Who we are by environment, the machine's role, or ``az login``, as azure-identity finds it."""
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - not even of the extra
    except ImportError:
        raise AccessDenied(
            "Azure needs credentials: AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING; "
            "for those of az login or the machine's role install azure-identity"
        ) from None
    return DefaultAzureCredential()


def _to_azure(headers: dict[str, str]) -> dict[str, str]:
    """User metadata under names that Azure takes: those that C# does. ``a-b`` is ``a_b``, and ``1a`` is ``_1a``."""
    return {re.sub(r"^(?=\d)", "_", name.replace("-", "_")): value for name, value in headers.items()}


def _from_azure(metadata: dict[str, str]) -> dict[str, str]:
    return {_NAME.sub("", name.lower()).replace("_", "-"): value for name, value in metadata.items()}


def _found(said: Any, size: int, asked: int) -> Found:
    settings = said.content_settings
    system = {name: value for name in SYSTEM if (value := getattr(settings, _setting(name), None))}
    headers = _from_azure(said.metadata or {}) | told(system.get("ContentType", ""))
    return Found(size, _quoted(said.etag), nanoseconds(said.last_modified), headers, system, asked)


def _setting(name: str) -> str:
    """``content_type`` for ``ContentType``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _listed(entry: Any, asked: int) -> Listed:
    if getattr(entry, "etag", None) is None:
        return Listed(entry.name)
    return Listed.with_all(entry.name, _found(entry, entry.size, asked))


def _quoted(etag: str) -> str:
    """Headers have an ETag in quotes, and listings not always."""
    return etag if etag.startswith('"') or not etag else f'"{etag}"'
