"""A Redis server to test on, of Debian's package, on loopback and in a directory of its own."""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from joinfs.stores.redis_url import AUTHORITY, CERTIFICATE, KEY, PASSWORDS
from tests.conftest import lacking
from tests.stores.certificates import Certificates

SAFE = ("--appendonly", "yes", "--appendfsync", "always")
_numbers = itertools.count(1)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """redis-server, which dies with us, whatever happens.

    Args:
        place: A directory for its data.
        options: Further ones, as on its command line.
        tls: Speak TLS; ``"both"``: with who has a certificate.

    Attributes:
        port: Where it listens; with TLS, only that.
        client: To look into it, and to put something there as others do.
    """

    def __init__(self, place, *options, safe=True, tls=False, password=None):
        self.place, self.tls, self.password = place, tls, password
        self.options = [*(SAFE if safe else ("--appendonly", "no")), *options]
        if tls:
            self.options += self.certified()
        for _ in range(5):  # another process may take the port in between
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError as error:
                failure = error
        raise failure

    def certified(self):
        self.certificates = Certificates(self.place)
        certificate, key = self.certificates.make("server", "127.0.0.1", "subjectAltName=IP:127.0.0.1")
        asks = ["--tls-auth-clients", "yes" if self.tls == "both" else "no", "--tls-ca-cert-file", str(self.certificates.authority)]
        return ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), *asks]

    def start(self):
        ports = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        secret = ["--requirepass", self.password] if self.password else []
        self.log = open(self.place / "log", "ab")
        self.process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", shutil.which("redis-server"), *ports, "--bind", "127.0.0.1", "--dir", str(self.place),
                "--save", "", "--daemonize", "no", *self.options, *secret,
            ],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.place,
        )  # fmt: skip
        self.client = self.new_client()
        self.wait()

    def new_client(self):
        import redis

        tls = {}
        if self.tls:
            own = {"ssl_certfile": str(self.place / "server.pem"), "ssl_keyfile": str(self.place / "server.key")}
            tls = {"ssl": True, "ssl_ca_certs": str(self.certificates.authority), **own}
        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, socket_timeout=20, **tls)

    def wait(self):
        import redis

        for _ in range(500):
            if self.process.poll() is not None:
                break
            try:
                self.client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"redis-server does not start: {(self.place / 'log').read_text(errors='replace')[-2000:]}")

    def url(self, prefix=None, database=0):
        """The URL of a store in which there is nothing yet."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://127.0.0.1:{self.port}/{database}/{prefix or f'place-{next(_numbers)}'}"

    def pause(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        """As a loss of power would, as far as a process can tell."""
        self.process.kill()  # a stopped one too
        self.process.wait()
        self.client.close()
        self.log.close()

    def restart(self):
        """As it was killed: at the same port, with what is in its log."""
        self.start()

    stop = kill

    def tag(self, url):
        return f"{{{url.rpartition('/')[2]}}}"

    def keys(self, url, kind=""):
        """What a store has on the server, without its tag."""
        tag = f"{self.tag(url)}:"
        return sorted(key.decode().removeprefix(tag) for key in self.client.scan_iter(f"{tag}{kind}*", 1000))


class Cutting:
    """Stands between a client and a server, and cuts the connection as often as it is told: after a request went on, before its answer is back.

    Attributes:
        port: Where it listens.
        cuts: How many more answers are lost.
    """

    def __init__(self, server):
        self.server, self.cuts, self.lost = server, 0, []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.open = [self.listening]
        self.threads = []
        self.start(self.run)

    def start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                onward = socket.create_connection(("127.0.0.1", self.server.port))
                self.open += [client, onward]
                self.start(self.carry, client, onward, False)
                self.start(self.carry, onward, client, True)

    def carry(self, source, target, is_answer):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_answer and self.cuts:
                    self.cuts -= 1
                    self.lost.append(data)
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()  # the other thread closes the other

    def cut_all(self):
        """Cut every connection, and go on listening."""
        for one in self.open[1:]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.open = [self.listening]

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.cut_all()
        for thread in self.threads:
            thread.join(10)
        self.listening.close()


# ---------------------------------------------------------------- fixtures, for the conftests that import them


@pytest.fixture(scope="session")
def running_redis(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def need_redis(need, monkeypatch):
    """What the tests of Redis run, and nothing of who runs them in the environment."""
    need("redis-server", "setpriv", "openssl")
    if importlib.util.find_spec("redis") is None:
        lacking("redis-py (pip install 'joinfs[redis]')")
    for name in (*PASSWORDS, AUTHORITY, CERTIFICATE, KEY, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def redis_server(need_redis, request):
    """A Redis server that many tests share, each with a prefix of its own."""
    return request.getfixturevalue("running_redis")


@pytest.fixture
def new_redis(need_redis, tmp_path_factory):
    """Call for a Redis server of the test's own; options as for ``Server``."""
    with contextlib.ExitStack() as ending:

        def new(*options, **given):
            server = Server(tmp_path_factory.mktemp("redis"), *options, **given)
            ending.callback(server.stop)
            return server

        yield new
