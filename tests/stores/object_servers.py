"""Servers of S3 to test on: moto's in this process, which takes any name, and SeaweedFS, which is a real one."""

import contextlib
import glob
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time

ACCESS, SECRET = "AKtest", "SKtest1234567890"
_numbers = itertools.count(1)


def raw_client(endpoint):
    """A client that shares nothing with the store."""
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"}, request_checksum_calculation="when_required", response_checksum_validation="when_required",
        retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20,
    )  # fmt: skip
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=ACCESS, aws_secret_access_key=SECRET, config=config
    )


class Server:
    """A server of S3, and new buckets of it.

    Attributes:
        endpoint: Its URL.
        client: To look into buckets, and to put something there as others do.
    """

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.client = raw_client(endpoint)

    def new_bucket(self):
        name = f"bucket-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def new_place(self):
        """A bucket and a prefix in it below which there is nothing."""
        return self.new_bucket(), ""

    def names(self, bucket):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def put(self, bucket, name, data=b"", **given):
        self.client.put_object(Bucket=bucket, Key=name, Body=data, **given)

    def metadata(self, bucket, name):
        return self.client.head_object(Bucket=bucket, Key=name)["Metadata"]


@contextlib.contextmanager
def moto():
    """A server of moto's in this process. ImportError: it is not installed."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Server(f"http://{host}:{port}")
    finally:
        server.stop()


def weed():
    """The program of SeaweedFS, beside this Python or on the path."""
    beside = os.path.join(os.path.dirname(sys.executable), "weed")
    return beside if os.access(beside, os.X_OK) else shutil.which("weed")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class SeaweedFS(Server):
    """SeaweedFS with all its parts in one process, on ports of its own; it dies with us, whatever happens."""

    def __init__(self, place):
        identity = {"name": "j", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (place / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (place / "data").mkdir()
        self.ports = ports = free_ports(8)
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
        options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        self.log = open(place / "log", "wb")
        self.process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", weed(), "server", f"-dir={place}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
                f"-s3.config={place}/s3.json", "-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
                # These would be at ports that all servers of this machine share.
                "-s3.port.iceberg=0", "-s3.port.lance=0", *options,
            ],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=place,
        )  # fmt: skip
        super().__init__(f"http://127.0.0.1:{ports[6]}")
        self.wait(place / "log")

    def new_place(self):
        """In one bucket: each of its own would take several volumes, of which there are not so many."""
        return self.bucket, f"a/place-{next(_numbers)}/"

    def wait(self, log):
        """Until something can be put: its port is open long before."""
        from botocore.exceptions import BotoCoreError, ClientError

        for _ in range(150):
            if self.process.poll() is not None:
                break
            try:
                self.bucket = self.new_bucket()
                self.put(self.bucket, "first", b"1")
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"SeaweedFS does not start: {log.read_text(errors='replace')[-2000:]}")

    def stop(self):
        """At once: it would take half a minute to stop by itself."""
        self.process.kill()
        self.process.wait()
        self.log.close()
        for path in [path for port in self.ports for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock")]:
            os.unlink(path)
