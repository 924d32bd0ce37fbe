"""A bucket of S3, or of a server that speaks as S3 does: the requests that a store makes of it, and what their failures mean.

boto3 makes them, and the commonest ones obstore does (``joinfs.stores.object_quick``). That alone would not do: it can neither
name ``dir/``, ``a//b`` and what has a newline in it, nor list a bucket that has such names, nor replace metadata.
"""

import contextlib
import functools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any, BinaryIO

from joinfs.errors import AccessDenied, NameTooLong, OutOfSpace, StoreError, StoreUnavailable, UsageError
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
from joinfs.stores.object_quick import Clock, Quick, Unanswered
from joinfs.stores.value import exactly

# S3 takes so many parts of an object.
MOST_PARTS = 10_000
# What is larger than this is copied in parts.
MOST_COPIED = 5 << 30
COPIED_PART = 1 << 30
# Objects that one request deletes.
MOST_DELETED = 1000
# What no document of XML can say, such as a request to delete several objects: see Char in the standard of XML 1.0.
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DENIED = {"403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled"}
_MISSING = {"404", "NoSuchKey", "NotFound"}
_OTHER_VERSION = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_FULL = {"507", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge"}


class S3Bucket(Bucket):
    """A bucket of S3's.

    Args:
        name: The bucket.
        endpoint: URL of the server; empty for what the environment and profiles say.
        credentials: ``(access key, secret key)``, or with a session token; None for the ecosystem's usual places.
        timeout: Seconds for which the server may send nothing.
        tries: How often a request that fails is made.

    Raises:
        UsageError: boto3 is not installed, or there is no making sense of the credentials, profile or endpoint.
    """

    def __init__(self, name: str, endpoint: str, credentials: Any, timeout: float, tries: int) -> None:
        self._boto, self._errors = _library()
        self._broken_off = (self._errors.ResponseStreamingError, self._errors.IncompleteReadError)
        self._name, self._tries, self._clock = name, tries, Clock()
        try:
            self._client, self._quick = self._connected(endpoint, _keys(credentials), timeout, tries)
        except (self._errors.BotoCoreError, ValueError) as error:
            raise UsageError(f"bucket {name} cannot be asked for: {error}") from None

    def _connected(self, endpoint: str, keys: dict[str, str], timeout: float, tries: int) -> tuple[Any, Quick]:
        from botocore.config import Config  # noqa: PLC0415 - an extra
        from botocore.handlers import add_expect_header  # noqa: PLC0415

        session = self._boto.session.Session(botocore_session=_session())
        own = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": tries, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            # Others than Amazon's have seldom names for buckets in the DNS, and many refuse checksums that they do not know.
            s3={"addressing_style": "path" if own else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = session.region_name or "us-east-1"
        client = session.client("s3", region_name=region, endpoint_url=endpoint or None, config=config, **keys)
        quick = Quick(self._name, client.meta.endpoint_url, region, session, keys, timeout, self._clock)
        # It would ask before it sends data, each time, and wait for the answer.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client, quick

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[Any]:
        """Around requests: gives the client, and what fails is one of ours."""
        try:
            yield self._client
        except self._errors.ClientError as error:
            raise self._refused(name, error) from None
        except (self._errors.NoCredentialsError, self._errors.PartialCredentialsError, self._errors.CredentialRetrievalError) as error:
            raise AccessDenied(f"bucket {self._name} needs credentials, from the environment, a profile or an instance's role: {error}") from None
        except self._errors.BotoCoreError as error:
            raise StoreUnavailable(f"bucket {self._name} cannot be reached: {error}") from error

    def _refused(self, name: str, error: Any) -> Exception:
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", ""))
        codes = {code, str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))}
        words = f"bucket {self._name} answers {code}: {answer.get('Message', '')}"
        if code == "NoSuchBucket":
            return StoreUnavailable(f"there is no bucket {self._name}")
        if code == "KeyTooLongError":
            return NameTooLong(f"{name[:40]!r}... is longer than the bucket takes")
        if code == "MetadataTooLarge" or codes & _FULL:
            return OutOfSpace(words)
        for meant, kind in ((_DENIED, AccessDenied), (_OTHER_VERSION, Changed), (_MISSING, KeyError)):
            if codes & meant:
                return kind(name if kind is KeyError else words)
        return StoreUnavailable(words)

    # ---------------------------------------------------------------- reading

    def head(self, name: str) -> Found:
        try:
            return self._quick.head(name)
        except Unanswered:
            return self._head(name)

    def _head(self, name: str) -> Found:
        with self._asking(name) as client:
            return self._found(client.head_object(Bucket=self._name, Key=name))

    def read(self, name: str, offset: int, size: int, etag: str = "") -> tuple[bytes, Found]:
        try:
            return self._quick.read(name, offset, size, etag)
        except Unanswered:
            return self._read(name, offset, size, etag)

    def _read(self, name: str, offset: int, size: int, etag: str) -> tuple[bytes, Found]:
        condition = {"IfMatch": etag} if etag else {}
        with self._asking(name) as client:
            for left in reversed(range(self._tries)):
                try:
                    answer = client.get_object(Bucket=self._name, Key=name, Range=f"bytes={offset}-{offset + size - 1}", **condition)
                    return _body(answer, offset, size), self._found(answer)
                except self._errors.ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] != 416:
                        raise
                    found = self.head(name)
                    if offset >= found.size or not left:  # at its end, or past it; else it was replaced in between
                        return b"", found
                except self._broken_off:  # boto3 tries again only as long as no data has come
                    if not left:
                        raise
        raise AssertionError("a bucket is asked at least once")

    def pages(self, prefix: str, delimiter: str = "", limit: int = 1000) -> Iterator[list[Listed]]:
        asked: dict[str, Any] = {"Bucket": self._name, "Prefix": prefix, "MaxKeys": limit}
        if delimiter:
            asked["Delimiter"] = delimiter
        while True:
            with self._asking(prefix) as client:
                answer = client.list_objects_v2(**asked)
            self._asked(answer)
            values = [_listed(entry) for entry in answer.get("Contents", ())]
            yield sorted([*values, *(Listed(entry["Prefix"]) for entry in answer.get("CommonPrefixes", ()))])
            if not answer.get("IsTruncated") or not answer.get("NextContinuationToken"):
                return
            asked["ContinuationToken"] = answer["NextContinuationToken"]

    # ---------------------------------------------------------------- writing

    def put(self, name: str, data: BinaryIO, headers: dict[str, str], system: dict[str, str], size: int = 0, etag: str | None = None) -> Found:
        part = max(PART, -(-size // (MOST_PARTS - 1)))
        first = exactly(data, part, part)
        given = {"Bucket": self._name, "Key": name, "Metadata": headers, **system}
        if len(first) == part:
            return self._written(given, *self._put_parts(given, data, first))
        try:
            return self._quick.put(name, first, headers, system, etag)
        except Unanswered:
            return self._put(given, first, etag)

    def _put(self, given: dict[str, Any], data: bytes, etag: str | None) -> Found:
        condition = {} if etag is None else {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        with self._asking(given["Key"]) as client:
            return self._written(given, len(data), client.put_object(Body=data, **given, **condition))

    def _written(self, given: dict[str, Any], size: int, answer: Any) -> Found:
        asked = self._asked(answer)
        return Found(size, answer.get("ETag", ""), asked, given["Metadata"], {name: given[name] for name in SYSTEM if name in given}, asked)

    def _put_parts(self, given: dict[str, Any], data: BinaryIO, first: bytes) -> tuple[int, Any]:
        size, part = 0, len(first)

        def pieces() -> Iterator[dict[str, Any]]:
            nonlocal size
            piece = first
            while piece:
                size += len(piece)
                yield {"Body": piece}
                piece = exactly(data, part, part)

        answer = self._in_parts(given, self._client.upload_part, pieces())
        return size, answer

    def _in_parts(self, given: dict[str, Any], send: Callable[..., Any], pieces: Iterable[dict[str, Any]]) -> Any:
        """Make an object of parts; until the last is there, nothing of it is seen, and what fails is thrown away.

        Args:
            given: Which object, and what is said of it.
            send: Makes a part of what ``pieces`` has for it; in several threads.
            pieces: What each part is made of.
        """
        place = {"Bucket": self._name, "Key": given["Key"]}
        with self._asking(given["Key"]) as client:
            place["UploadId"] = client.create_multipart_upload(**given)["UploadId"]
            try:
                parts = _sent(functools.partial(send, **place), pieces)
                return client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
            except BaseException:
                with contextlib.suppress(Exception):
                    client.abort_multipart_upload(**place)
                raise

    def copy(self, old: str, new: str, found: Found, headers: dict[str, str] | None = None) -> Found:
        source = {"CopySource": {"Bucket": self._name, "Key": old}, "CopySourceIfMatch": found.etag}
        kept = found.headers if headers is None else headers
        given = {"Bucket": self._name, "Key": new, "Metadata": kept, **found.system}
        if found.size > MOST_COPIED:
            answer = self._in_parts(given, functools.partial(self._client.upload_part_copy, **source), _ranges(found.size))
        else:
            with self._asking(old) as client:
                answer = client.copy_object(**given, **source, MetadataDirective="REPLACE")
        etag, asked = answer.get("CopyObjectResult", answer).get("ETag", ""), self._asked(answer)
        return Found(found.size, _quoted(etag), asked, kept, found.system, asked)

    def delete(self, names: Sequence[str]) -> None:
        alone = {name for name in names if len(names) == 1 or _NOT_IN_XML.search(name)}
        for name in names:
            if name in alone:
                self._delete(name)
        together = [name for name in names if name not in alone]
        for start in range(0, len(together), MOST_DELETED):
            batch = [{"Key": name} for name in together[start : start + MOST_DELETED]]
            with self._asking(together[start]) as client:
                answer = client.delete_objects(Bucket=self._name, Delete={"Objects": batch, "Quiet": True})
            for failed in answer.get("Errors", ()):
                raise StoreError(f"bucket {self._name} does not delete {failed.get('Key')!r}: {failed.get('Message')}")

    def _delete(self, name: str) -> None:
        with contextlib.suppress(KeyError):
            try:
                return self._quick.delete(name)
            except Unanswered:
                with self._asking(name) as client:
                    client.delete_object(Bucket=self._name, Key=name)

    # ---------------------------------------------------------------- what is answered

    def _found(self, answer: Any) -> Found:
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        return Found(
            int(whole) if whole.isdigit() else answer["ContentLength"],
            answer.get("ETag", ""),
            nanoseconds(answer["LastModified"]),
            {name.lower(): value for name, value in answer["Metadata"].items()} | told(answer.get("ContentType", "")),
            {name: answer[name] for name in SYSTEM if name in answer},
            self._asked(answer),
        )

    def _asked(self, answer: Any) -> int:
        """When the bucket answered, by its own clock."""
        return self._clock.told(moment_in(answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")))


def _library() -> tuple[Any, Any]:
    try:
        import boto3  # noqa: PLC0415 - an extra
        import botocore.exceptions  # noqa: PLC0415
    except ImportError:
        raise UsageError("buckets need a library; install it with: pip install 'joinfs[object]'") from None
    return boto3, botocore.exceptions


def _session() -> Any:
    """A session of botocore's; what it reads of S3 takes a tenth of a second, and is read once."""
    import botocore.session  # noqa: PLC0415 - an extra

    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return session


def _moment(told: Any) -> datetime:
    """What the server says of a time. botocore's own way, which takes any date that anybody writes, takes half the time of a listing."""
    if isinstance(told, str) and told.endswith("Z"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(told)
    from botocore.utils import parse_timestamp  # noqa: PLC0415 - an extra

    parsed: datetime = parse_timestamp(told)
    return parsed


@functools.cache
def _loader() -> Any:
    import botocore.loaders  # noqa: PLC0415 - an extra

    return botocore.loaders.create_loader()


def _keys(credentials: Any) -> dict[str, str]:
    if credentials is None:
        return {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    if not isinstance(credentials, tuple | list) or len(credentials) not in {2, 3} or not all(isinstance(c, str) for c in credentials):
        raise UsageError("credentials for a bucket are (access key, secret key), or with a session token as a third")
    return dict(zip(names, credentials, strict=False))


def _body(answer: Any, offset: int, size: int) -> bytes:
    """The whole body: boto3 notices what is cut off only if it is asked for all of it."""
    start = offset if "ContentRange" in answer else 0
    with contextlib.closing(answer["Body"]) as body:
        if answer["ContentLength"] > offset - start + size:
            raise StoreUnavailable("a bucket's server takes no notice of the range that it is asked for")
        return bytes(body.read())[offset - start :][:size]


def _quoted(etag: str) -> str:
    """An ETag as headers have it, also if a server has left out the quotes in the body of an answer."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag


def _listed(entry: Any) -> Listed:
    return Listed(entry["Key"], entry["Size"], _quoted(entry.get("ETag", "")), nanoseconds(entry["LastModified"]))


def _ranges(size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, size, COPIED_PART):
        yield {"CopySourceRange": f"bytes={start}-{min(start + COPIED_PART, size) - 1}"}


def _sent(send: Callable[..., Any], pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send pieces, a few at a time, and answer what there is to say of the parts; all that were begun have ended when one fails."""
    parts: list[dict[str, Any]] = []
    sending: deque[Future[Any]] = deque()

    def take() -> None:
        answer = sending.popleft().result()
        parts.append({"ETag": answer.get("CopyPartResult", answer)["ETag"], "PartNumber": len(parts) + 1})

    with ThreadPoolExecutor(PARTS_AT_A_TIME, "joinfs-parts") as pool:
        for number, piece in enumerate(pieces, 1):
            if len(sending) == PARTS_AT_A_TIME:
                take()
            sending.append(pool.submit(send, PartNumber=number, **piece))
        while sending:
            take()
    return parts
