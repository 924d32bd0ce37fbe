"""A PostgreSQL server to test on: a real one, of our own, and before it a pooler, or a relay that counts, delays and cuts off."""

import contextlib
import functools
import glob
import itertools
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.stores.certificates import Certificates
from tests.stores.object_servers import free_ports

USER, DATABASE = "tester", "tests"
_numbers = itertools.count(1)


def programs():
    """The directory of the server's programs: Debian has them where nobody looks."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return os.path.dirname(found[-1]) if found else os.path.dirname(shutil.which("postgres") or "") or None


# Who may come to a server that is guarded, and how.
GUARDED = """
hostssl all certified 127.0.0.1/32 cert
hostssl all encrypted 127.0.0.1/32 scram-sha-256
host all secret 127.0.0.1/32 scram-sha-256
host all,replication tester 127.0.0.1/32 trust
"""


class Server:
    """A server on loopback (or ``address``), with data of its own; it dies with us, whatever happens.

    It refuses to run as root, so then it runs as the user whom the package made for it.

    Args:
        guarded: It speaks TLS too, and has users of ``GUARDED``, each with ``password(user)``.
        of: Whose standby it is.
    """

    def __init__(self, address="127.0.0.1", guarded=False, of=None):
        self.address = address
        # Not where pytest has its directories: those are for whoever runs the tests alone.
        self.place = Path(tempfile.mkdtemp(prefix="joinfs-postgres-"))
        self.data = self.place / "data"
        self.data.mkdir()
        (self.port,) = free_ports(1)
        self.who = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self.who is not None:
            self.place.chmod(0o755)
            os.chown(self.data, self.who.pw_uid, self.who.pw_gid)
        if of is None:
            self._run(self._program("initdb", "-D", self.data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"))
        else:
            self.data.chmod(0o700)
            source = ["-h", "127.0.0.1", "-p", of.port, "-U", USER]
            self._run(self._program("pg_basebackup", *source, "-D", self.data, "-R", "-c", "fast", "--no-sync"))
        if guarded:
            self._guard()
        self.log = open(self.place / "log", "ab")
        self.start()
        if of is None:
            self._run(self._program("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, DATABASE))
        if guarded:
            with self.connect() as connection:
                for user in ("certified", "encrypted", "secret"):
                    connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{self.password(user)}'; GRANT CREATE ON DATABASE {DATABASE} TO {user}")

    def _guard(self):
        self.certificates = Certificates(self.place)
        self.certificates.make("server", "127.0.0.1", "subjectAltName=IP:127.0.0.1")
        for name in ("server.pem", "server.key", "authority.pem"):
            shutil.copy(self.place / name, self.data)
            if self.who is not None:
                os.chown(self.data / name, self.who.pw_uid, self.who.pw_gid)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\nssl_ca_file = 'authority.pem'\n")
        (self.data / "pg_hba.conf").write_text(GUARDED)

    @staticmethod
    def password(user):
        return f"the s3cret of {user}"

    def _program(self, name, *arguments):
        as_user = [] if self.who is None else [f"--reuid={self.who.pw_uid}", f"--regid={self.who.pw_gid}", "--clear-groups"]
        return ["setpriv", *as_user, "--pdeathsig", "KILL", os.path.join(programs(), name), *map(str, arguments)]

    def _run(self, command):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr

    def start(self):
        """Begin, and wait until it takes connections."""
        settings = {"listen_addresses": self.address, "port": self.port, "unix_socket_directories": "", "max_connections": 200, "fsync": "on"}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        command = self._program("postgres", "-D", self.data, *options)
        begin = functools.partial(subprocess.Popen, command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/")
        self.process = begin()
        until = time.monotonic() + 60
        ready = [os.path.join(programs(), "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", DATABASE]
        while subprocess.run(ready, check=False, timeout=30).returncode:
            if self.process.poll() is not None and time.monotonic() < until:
                self.process = begin()  # processes of the one that was killed were still there
            if time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL does not start: {(self.place / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def let_in(self, network):
        """Trust who comes from there, from the next connection on."""
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} trust\n")
        self.process.send_signal(signal.SIGHUP)

    def kill(self):
        """As when the machine loses power: at once, with all that it has begun."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.place)

    def connect(self):
        """A connection that shares nothing with a store."""
        import psycopg

        return psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=DATABASE, autocommit=True, connect_timeout=10)

    def url(self, port=None):
        return f"//{USER}@127.0.0.1:{port or self.port}/{DATABASE}"

    @staticmethod
    def new_schema():
        return f"place_{next(_numbers)}"


class Pooler:
    """PgBouncer before a server; it dies with us.

    Args:
        mode: ``session`` or ``transaction``.
    """

    def __init__(self, server, mode):
        place = server.place / f"pooler-{next(_numbers)}"
        place.mkdir()
        (self.port,) = free_ports(1)
        (place / "settings").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={server.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            "default_pool_size = 40\n"
        )
        who = server.who
        as_user = [] if who is None else [f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups"]
        command = ["setpriv", *as_user, "--pdeathsig", "KILL", "pgbouncer", str(place / "settings")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "process up" in line:  # it listens by now
                break
        else:
            raise RuntimeError(f"PgBouncer does not start: {line}")
        self._reading = threading.Thread(target=self.process.stderr.read)
        self._reading.start()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._reading.join()
        self.process.stderr.close()


class Relay:
    """Stands between a store and its server, on a port of its own.

    Attributes:
        trips: How often the store has waited for the server: it had said something, and the server answered.
        sent: Bytes that the server has sent.
    """

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self.trips = self.sent = 0
        self._open, self._lock = set(), threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._swallows = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        with self._listener, contextlib.suppress(OSError):
            while True:
                store, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError:
                    store.close()
                    continue
                server.settimeout(None)
                with self._lock:
                    self._open |= {store, server}
                self._threads.append(threading.Thread(target=self._move, args=(store, server)))
                self._threads[-1].start()

    def _move(self, store, server):
        asked = False  # whether the store has said something that is not answered
        poll = select.poll()
        for one in (store, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(one, select.POLLIN)
        with store, server, contextlib.suppress(OSError):
            while True:
                for descriptor, _ in poll.poll():
                    self._flowing.wait()
                    from_store = descriptor == store.fileno()
                    data = (store if from_store else server).recv(1 << 16)
                    if not data:
                        return
                    if self._swallows == ("question" if from_store else "answer"):
                        self._swallows = ""
                        return
                    if not from_store:
                        self.sent += len(data)
                        self.trips += asked
                    asked = from_store
                    (server if from_store else store).sendall(data)

    def hold(self):
        """Let nothing through from now on, as a network does that is broken."""
        self._flowing.clear()

    def flow(self):
        self._flowing.set()

    def swallow(self, what="answer"):
        """Do not hand on the next answer, or question, and end that connection: it was done and nobody learns of it, or it was not."""
        self._swallows = what

    def end(self):
        """Take no connections any more; those that there are stay."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """End every connection there is."""
        with self._lock:
            ended, self._open = self._open, set()
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.end()
        self.flow()
        self.cut()
        for thread in self._threads:
            thread.join(20)
