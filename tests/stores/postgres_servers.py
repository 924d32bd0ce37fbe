"""A PostgreSQL server to test on: a real one, of our own, and a relay before it that counts, delays and cuts off."""

import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
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
