"""A container of Azure's Blob Storage as a store."""

import os
from typing import Any

from joinfs.stores.object import ObjectStore
from joinfs.stores.object_azure import AzureBucket
from joinfs.stores.object_bucket import Bucket


class AzureStore(ObjectStore):
    """The blobs of a container whose names begin with a prefix: an ``ObjectStore``, but that attributes and metadata are changed in place.

    Names of user metadata have ``_`` where those of a bucket have ``-``, which Azure does not take.

    Args:
        url: ``//CONTAINER/PREFIX``, what follows ``az:`` in a store's URL.
        event_manager, read_only, endpoint, freshness: As for ``ObjectStore``; the endpoint is that of the account.
        account: The account; empty for what ``AZURE_STORAGE_ACCOUNT`` or ``AZURE_STORAGE_CONNECTION_STRING`` says.
    """

    scheme = "az"

    def __init__(
        self, url: str, event_manager: Any = None, read_only: bool = False, endpoint: str = "", freshness: str = "", account: str = ""
    ) -> None:
        super().__init__(url, event_manager, read_only, endpoint, freshness)
        self._account = account

    def connect(self, credentials: Any = None) -> None:
        """The same.

        Args:
            credentials: The account's key, a SAS token, or a credential of azure-identity's. None: those of
                ``AZURE_STORAGE_CONNECTION_STRING``, ``AZURE_STORAGE_KEY`` or ``AZURE_STORAGE_SAS_TOKEN``, or what azure-identity finds.
        """
        super().connect(credentials)

    def _made_bucket(self, credentials: Any) -> Bucket:
        return AzureBucket(self._bucket_name, self._account, self._endpoint, credentials, self.timeout, self.tries)

    @property
    def identity(self) -> str:
        places = [self._endpoint, self._account, os.environ.get("AZURE_STORAGE_ACCOUNT", "")]
        # What a connection string says of where it is, without its key.
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
        return " ".join([self.name, *places, *(part for part in text.split(";") if part.startswith(("AccountName=", "BlobEndpoint=")))])
