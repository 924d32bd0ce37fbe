"""A bucket of Google Cloud Storage as a store."""

import logging
import os
from typing import Any

from joinfs.stores.object import ObjectStore
from joinfs.stores.object_bucket import Bucket
from joinfs.stores.object_gcs import GoogleBucket
from joinfs.stores.object_gcs_server import EMULATOR

log = logging.getLogger(__name__)


class GoogleStore(ObjectStore):
    """The objects of a bucket of Google's whose names begin with a prefix: an ``ObjectStore``, but that attributes and metadata are changed in place.

    Where the server honours conditions, of two who change the attributes of one version at once none is lost.

    Args:
        url: ``//BUCKET/PREFIX``, what follows ``gs:`` in a store's URL.
        event_manager, read_only, freshness: As for ``ObjectStore``.
        endpoint: URL of the server; empty for what ``STORAGE_EMULATOR_HOST`` says, or Google's.
    """

    scheme = "gs"

    def __init__(self, url: str, event_manager: Any = None, read_only: bool = False, endpoint: str = "", freshness: str = "") -> None:
        super().__init__(url, event_manager, read_only, endpoint, freshness)
        self._is_read_only = read_only

    def connect(self, credentials: Any = None) -> None:
        """The same. Where there are no credentials the store takes no writes, and only what is public can be read.

        Args:
            credentials: Those of google-auth. None: the application default credentials, which are those of
                ``GOOGLE_APPLICATION_CREDENTIALS``, of ``gcloud auth application-default login``, or of the machine; but
                none for a server that is asked by ``http:``, where others could read them.
        """
        super().connect(credentials)

    def _made_bucket(self, credentials: Any) -> Bucket:
        bucket = GoogleBucket(self._bucket_name, self._endpoint, credentials, self._is_read_only, self.timeout, self.tries)
        self.capabilities = type(self).capabilities._replace(writable=not (self._is_read_only or bucket.is_for_reading))
        if bucket.is_for_reading and not self._is_read_only:
            log.warning(
                "%s is read only, and only what is public can be read: there are no credentials of Google's; "
                "gcloud auth application-default login makes some, or GOOGLE_APPLICATION_CREDENTIALS names a file of them",
                self.name,
            )
        return bucket

    @property
    def identity(self) -> str:
        return f"{self.name} {self._endpoint or os.environ.get(EMULATOR, '')}"
