"""Real mounts by the real command, taken down whatever happens."""

import contextlib
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import lacking
from tests.stores.redis_servers import need_redis, new_redis, redis_server, running_redis  # noqa: F401 - fixtures

NOBODY = 65534
CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT = 60


@pytest.fixture(autouse=True)
def machine_can_mount():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        lacking(f"/dev/fuse, which cannot be opened ({error.strerror})")
    try:
        import fuse  # noqa: F401
    except OSError:
        lacking("libfuse 2 (apt-get install libfuse2)")


class User:
    """Who runs a command: ourselves, or an ordinary user."""

    def __init__(self, uid=None):
        self.uid = uid

    def options(self):
        return {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}

    def python(self):
        """An interpreter that the user can run, and the environment in which it finds joinfs."""
        environment = dict(os.environ)
        if self.uid is None:
            return sys.executable, environment
        environment.pop("XDG_RUNTIME_DIR", None)
        probe = [sys.executable, "-c", "import joinfs, fuse"]
        with contextlib.suppress(PermissionError):
            if subprocess.run(probe, capture_output=True, check=False, cwd="/", **self.options()).returncode == 0:
                return sys.executable, environment
        environment["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *site.getsitepackages()])
        return "/usr/bin/python3", environment

    def run(self, command, **options):
        options = {"check": True, "capture_output": True, "text": True, "timeout": TIMEOUT, **self.options(), **options}
        return subprocess.run(command, **options)  # noqa: PLW1510 - it is among the options

    def joinfs(self, *arguments, **options):
        """Run the command and answer how it went."""
        interpreter, environment = self.python()
        command = [interpreter, "-m", "joinfs", *map(str, arguments)]
        return self.run(command, check=False, env=environment, cwd=options.pop("cwd", "/"), **options)


@pytest.fixture(params=["root", "ordinary"])
def user(request):
    """Each test as root and as an ordinary user, as far as we can be either."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        return User()
    if os.geteuid() != 0:
        return User()
    if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split():
        lacking("the line user_allow_other in /etc/fuse.conf, for root to look into an ordinary user's mount")
    return User(NOBODY)


@pytest.fixture
def scratch(user):
    """A directory that the user owns and can reach."""
    place = Path(tempfile.mkdtemp(prefix="joinfs-test-"))
    place.chmod(0o755)
    if user.uid is not None:
        os.chown(place, user.uid, user.uid)
    yield place
    for mountpoint in mounts_below(place):
        subprocess.run(["umount", "-l", mountpoint], check=False, timeout=TIMEOUT)
    shutil.rmtree(place, ignore_errors=True)


def mounts_below(place):
    found = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((m for m in found if m.startswith(f"{place}/")), reverse=True)


class Server:
    """A joinfs that serves in the foreground."""

    def __init__(self, process, mountpoint, log):
        self.process, self.mountpoint, self.log = process, mountpoint, log

    def wait_until_mounted(self):
        end = time.monotonic() + TIMEOUT
        while str(self.mountpoint) not in mounts_below(self.mountpoint.parent):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
                raise AssertionError(f"it did not mount: {self.log.read_text()}")
            assert time.monotonic() < end, "it did not mount in time"

    def stop(self):
        """End it as kill does by default, and answer its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)


@pytest.fixture(params=["devfuse", "fusepy"])
def driver(request):
    """Each way to speak to the kernel."""
    return request.param


@pytest.fixture
def mount(user, driver, scratch):
    """Call with stores and a mountpoint's name: mounts them for a with block, and gives the mountpoint."""
    servers = []

    @contextlib.contextmanager
    def mount(*stores, at="mnt", options=()):
        mountpoint = scratch / at
        make_directory(user, mountpoint)
        interpreter, environment = user.python()
        shared = ["-o", "allow_other"] if user.uid is not None else []
        command = [interpreter, "-m", "joinfs", "mount", "-f", "--driver", driver, *shared, *options, *map(str, stores), str(mountpoint)]
        log = Path(f"{mountpoint}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, cwd=scratch, **user.options()
            )
        server = Server(process, mountpoint, log)
        servers.append(server)
        server.wait_until_mounted()
        yield mountpoint
        unmounted = user.joinfs("umount", mountpoint)
        assert unmounted.returncode == 0, unmounted.stderr
        assert process.wait(TIMEOUT) == 0
        text = log.read_text()
        assert "Traceback" not in text, text
        assert " ERROR " not in text, text

    yield mount
    for server in servers:
        if server.process.poll() is None:
            subprocess.run(["umount", "-l", str(server.mountpoint)], check=False, capture_output=True, timeout=TIMEOUT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(5)
            server.process.kill()
            server.process.wait(TIMEOUT)


@pytest.fixture
def mnt(tmp_path):
    """Where this process itself mounts."""
    (tmp_path / "mnt").mkdir()
    yield tmp_path / "mnt"
    if os.path.ismount(tmp_path / "mnt"):
        subprocess.run(["umount", "-l", tmp_path / "mnt"], check=False, timeout=20)


def make_directory(user, path):
    path.mkdir(exist_ok=True, parents=True)
    if user.uid is not None:
        os.chown(path, user.uid, user.uid)


@pytest.fixture(params=["directory", "sqlite"])
def upper(request, user, scratch):
    """The URL of a first store."""
    if request.param == "sqlite":
        return f"sqlite:{scratch}/upper.db"
    make_directory(user, scratch / "upper")
    return f"dir:{scratch}/upper"
