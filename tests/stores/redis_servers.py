"""A Redis server to test on, of Debian's package, on loopback and in a directory of its own."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time

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
        certificate, key = self.place / "certificate.pem", self.place / "key.pem"
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, *subject]
        subprocess.run(command, check=True, capture_output=True)
        return ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]

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

        tls = {"ssl": True, "ssl_ca_certs": str(self.place / "certificate.pem")} if self.tls else {}
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
        self.process.kill()
        self.process.wait()
        self.client.close()
        self.log.close()

    stop = kill

    def tag(self, url):
        return f"{{{url.rpartition('/')[2]}}}"

    def calls(self):
        """How many commands it was given by clients other than this one, by name."""
        stats = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): known["calls"] for name, known in stats.items()}
