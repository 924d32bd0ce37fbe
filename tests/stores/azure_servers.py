"""Azurite, Microsoft's own server of Blob Storage for tests (npm install -g azurite)."""

import itertools
import shutil
import subprocess
import time

from tests.stores.object_servers import free_ports

# Those of every such server; see its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_numbers = itertools.count(1)


def azurite():
    """The program, on the path."""
    return shutil.which("azurite-blob")


class Azurite:
    """A server on a port of its own; it dies with us, whatever happens.

    Attributes:
        endpoint: Its URL.
        service: To look into containers, and to put something there as others do.
    """

    def __init__(self, place):
        from azure.storage.blob import BlobServiceClient

        (port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        self.log = open(place / "log", "wb")
        self.process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", place, "--silent",
                "--skipApiVersionCheck", "--disableProductStyleUrl",
            ],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=place,
        )  # fmt: skip
        self.service = BlobServiceClient(self.endpoint, credential={"account_name": ACCOUNT, "account_key": KEY}, retry_total=0)
        self.wait(place / "log")

    def wait(self, log):
        """Until it answers."""
        from azure.core.exceptions import AzureError

        for _ in range(150):
            if self.process.poll() is not None:
                break
            try:
                self.service.get_account_information()
            except AzureError:
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise RuntimeError(f"Azurite does not start: {log.read_text(errors='replace')[-2000:]}")

    def new_container(self):
        name = f"container-{next(_numbers)}"
        self.service.create_container(name)
        return name

    def put(self, container, name, data=b"", **given):
        self.service.get_blob_client(container, name).upload_blob(data, **given)

    def stop(self):
        self.service.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
