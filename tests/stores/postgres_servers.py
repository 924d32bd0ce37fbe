"""A PostgreSQL server to test on: a real one, of our own, and a relay before it that counts, delays and cuts off."""

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time

from tests.stores.object_servers import free_ports

USER, DATABASE = "tester", "tests"
_numbers = itertools.count(1)


def programs():
    """The directory of the server's programs: Debian has them where nobody looks."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return os.path.dirname(found[-1]) if found else os.path.dirname(shutil.which("postgres") or "") or None


class Server:
    """A server on loopback, with data of its own; it dies with us, whatever happens.

    It refuses to run as root, so then it runs as the user whom the package made for it.
    """

    def __init__(self, place):
        self.place, self.data = place, place / "data"
        self.data.mkdir()
        (self.port,) = free_ports(1)
        self.who = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self.who is not None:
            os.chown(self.data, self.who.pw_uid, self.who.pw_gid)
            for above in (place, *place.parents):  # which pytest makes for root alone
                if above.stat().st_uid == os.geteuid() and above != above.parent:
                    above.chmod(above.stat().st_mode | 0o011)
        self._run(self._program("initdb", "-D", self.data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"))
        self.log = open(place / "log", "ab")
        self.start()
        self._run(self._program("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, DATABASE))

    def _program(self, name, *arguments):
        as_user = [] if self.who is None else [f"--reuid={self.who.pw_uid}", f"--regid={self.who.pw_gid}", "--clear-groups"]
        return ["setpriv", *as_user, "--pdeathsig", "KILL", os.path.join(programs(), name), *map(str, arguments)]

    def _run(self, command):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr

    def start(self):
        """Begin, and wait until it takes connections."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "max_connections": 200, "fsync": "on"}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            self._program("postgres", "-D", self.data, *options), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/"
        )
        until = time.monotonic() + 60
        ready = [os.path.join(programs(), "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False, timeout=30).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL does not start: {(self.place / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self):
        """As when the machine loses power: at once, with all that it has begun."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        self.log.close()

    def connect(self):
        """A connection that shares nothing with a store."""
        import psycopg

        return psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=DATABASE, autocommit=True, connect_timeout=10)

    def url(self, port=None):
        return f"//{USER}@127.0.0.1:{port or self.port}/{DATABASE}"

    @staticmethod
    def new_schema():
        return f"place_{next(_numbers)}"


class Relay:
    """Stands between a store and its server, on a port of its own.

    Attributes:
        trips: How often the store has waited for the server: it had said something, and the server answered.
        sent: Bytes that the server has sent.
    """

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self.trips = self.sent = 0
        self._open, self._lock = [], threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                store, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError:
                    store.close()
                    continue
                server.settimeout(None)
                for one in (store, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = [store, server, False]  # whether the store has said something that is not answered
                with self._lock:
                    self._open.append(pair)
                threading.Thread(target=self._move, args=(pair, 0), daemon=True).start()
                threading.Thread(target=self._move, args=(pair, 1), daemon=True).start()

    def _move(self, pair, side):
        with contextlib.suppress(OSError):
            while data := pair[side].recv(1 << 16):
                self._flowing.wait()
                with self._lock:
                    if side == 0:
                        pair[2] = True
                    else:
                        self.sent += len(data)
                        self.trips += pair[2]
                        pair[2] = False
                pair[1 - side].sendall(data)
        for one in pair[:2]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def hold(self):
        """Let nothing through from now on, as a network does that is broken."""
        self._flowing.clear()

    def flow(self):
        self._flowing.set()

    def cut(self):
        """End every connection there is."""
        with self._lock:
            pairs, self._open = self._open, []
        for pair in pairs:
            for one in pair[:2]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()
        self.flow()
        self.cut()
