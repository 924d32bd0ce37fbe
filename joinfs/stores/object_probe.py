"""Whether a server honours conditions: many that speak as S3 does take no notice of them, and say nothing."""

import contextlib
import io
import secrets
from collections.abc import Callable
from typing import NamedTuple

from joinfs.errors import StoreError
from joinfs.stores.object_bucket import Bucket, Changed


class Conditions(NamedTuple):
    """What was found out.

    Attributes:
        create: Of two who make an object at once, one is told that it is there.
        replace: Who replaces a version that is not there any more is told so. (Nothing here depends on it; others may.)
        copy: Who copies such a version is told so.
    """

    create: bool = False
    replace: bool = False
    copy: bool = False

    def missing(self) -> str:
        """Answer, in words, what cannot be told apart; empty if all can."""
        words = (
            (self.create, "two who make one file at once"),
            (self.replace, "two who replace one file at once"),
            (self.copy, "who changes the attributes of a file and who replaces it at once"),
        )
        return ", and ".join(word for honoured, word in words if not honoured)


def probe(bucket: Bucket, base: str) -> Conditions:
    """Find out with an object of a name of its own, which is deleted again.

    Raises:
        AccessDenied, StoreUnavailable: The bucket takes no writes from us, or cannot be reached.
    """
    name = f"{base}.joinfs-probe-{secrets.token_hex(8)}"
    bucket.put(name, io.BytesIO(b"1"), {}, {})
    try:
        found = bucket.head(name)
        stale = found._replace(etag=bucket.no_version)
        return Conditions(
            create=_refuses(lambda: bucket.put(name, io.BytesIO(b"2"), {}, {}, etag="")),
            replace=_refuses(lambda: bucket.put(name, io.BytesIO(b"3"), {}, {}, etag=stale.etag))
            and not _refuses(lambda: bucket.put(name, io.BytesIO(b"4"), {}, {}, etag=bucket.head(name).etag)),
            copy=_refuses(lambda: bucket.copy(name, name, stale, {"probe": "5"}))
            and not _refuses(lambda: bucket.copy(name, name, bucket.head(name), {"probe": "6"})),
        )
    finally:
        with contextlib.suppress(StoreError):
            bucket.delete([name])


def _refuses(write: Callable[[], object]) -> bool:
    try:
        write()
    except Changed:
        return True
    except StoreError:  # what it does not know, it does not honour
        return False
    return False
