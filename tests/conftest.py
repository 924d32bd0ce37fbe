"""What every test may need: to know what this machine lacks, and to say so."""

import os
import shutil
import subprocess
import sys

import pytest

from joinfs.errors import Unsupported
from joinfs.stores.libarchive import library


def lacking(what):
    """Skip for want of something; in CI nothing may be wanting, so there it fails."""
    if os.environ.get("CI"):
        pytest.fail(f"CI lacks {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture
def need():
    """Call with the names of programs that the test runs."""

    def need(*programs):
        for program in programs:
            if shutil.which(program) is None:
                lacking(program)

    return need


@pytest.fixture
def in_bounded_memory():
    """Run Python with no more than so many mebibytes beside what it starts with; answer what it prints."""

    def run(program, megabytes, *arguments, timeout=110, start=""):
        limited = (
            "import resource, sys\n"
            f"import joinfs\n{start}\n"
            "held = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
            f"resource.setrlimit(resource.RLIMIT_AS, (held + {megabytes << 20},) * 2)\n" + program
        )
        done = subprocess.run([sys.executable, "-c", limited, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def need_libarchive():
    """What ArchiveStore needs: the C library, and the Python package that knows it."""
    try:
        library()
    except Unsupported as error:
        lacking(str(error))


@pytest.fixture(scope="session")
def running_postgres():
    from tests.stores import postgres_servers

    if postgres_servers.programs() is None or shutil.which("setpriv") is None:
        lacking("PostgreSQL's server (apt-get install postgresql) and setpriv")
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        lacking(f"psycopg: {error}")
    server = postgres_servers.Server()
    yield server
    server.stop()


@pytest.fixture
def postgres_environment(monkeypatch, tmp_path):
    """Nothing of who runs the tests."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    for name in ("PGPASSFILE", "PGSERVICEFILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture
def postgres(running_postgres, postgres_environment):
    """A server that lets everybody in."""
    return running_postgres


@pytest.fixture(scope="session")
def running_guarded_postgres(running_postgres):
    from tests.stores import postgres_servers

    if shutil.which("openssl") is None:
        lacking("openssl")
    server = postgres_servers.Server(guarded=True)
    yield server
    server.stop()


@pytest.fixture
def guarded_postgres(running_guarded_postgres, postgres_environment):
    """A server with passwords and TLS."""
    return running_guarded_postgres
