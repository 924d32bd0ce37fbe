"""What this machine can do for joinfs, and how to get what it lacks. Nothing on it is changed, but that the place for staged data is made.

Each ``Finding`` is of one thing: what was found, whether that is enough, and if not, one sentence on what to do.
"""

import contextlib
import ctypes.util
import errno
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from joinfs import inside
from joinfs.mountpoint import DEVICE, FSTYPE, FUSE_CONF, fusermount, mounts, staging_place

OK, LIMITED, MISSING = "ok", "limited", "missing"
# What joinfs runs on, and from what on the kernel reads and writes past it.
LEAST_PYTHON, LEAST_KERNEL, PASSTHROUGH_KERNEL = (3, 11), (5, 4), (6, 9)
# Fewer watches than this many directories are soon used up.
FEW_WATCHES, FEW_FILES = 65_536, 4096
_ADMIN = 21
_INSTALL = {"debian": "apt-get install", "fedora": "dnf install", "arch": "pacman -S", "alpine": "apk add", "suse": "zypper install"}
_PACKAGES = {
    "fuse3": {},
    "libfuse2": {"fedora": "fuse-libs", "arch": "fuse2", "alpine": "fuse"},
    "libarchive13": {"fedora": "libarchive", "arch": "libarchive", "alpine": "libarchive", "suse": "libarchive13"},
}  # fmt: skip


class Finding(NamedTuple):
    """What was found out about one thing.

    Attributes:
        name: What it is.
        state: ``ok``, ``limited`` (joinfs does without it, or with less) or ``missing``.
        found: What is there.
        remedy: How to get it; empty if it is ok.
        needed: Whether nothing can be mounted without it.
    """

    name: str
    state: str
    found: str
    remedy: str = ""
    needed: bool = False


def examine() -> Iterator[Finding]:
    """Yield a finding on each thing that matters. What cannot be found out is told as that."""
    for look in _LOOKS:
        try:
            yield look()
        except OSError as error:
            name = look.__name__.strip("_").replace("_", " ")
            yield Finding(name, LIMITED, f"not known: {error.strerror}", "")
    yield from _extras()


# -------------------------------------------------------------------- the machine


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info >= LEAST_PYTHON:
        return Finding("Python", OK, found, needed=True)
    return Finding("Python", MISSING, found, "joinfs needs Python 3.11 or newer", needed=True)


def _kernel() -> Finding:
    found = os.uname().release
    if _version(found) >= LEAST_KERNEL:
        return Finding("kernel", OK, found, needed=True)
    return Finding("kernel", MISSING, found, "the driver devfuse needs Linux 5.4 or newer; use --driver fusepy", needed=True)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _device() -> Finding:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = "load the kernel's module: modprobe fuse; in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN"
        return Finding(DEVICE, MISSING, "not there", remedy, needed=True)
    except OSError as error:
        remedy = f"have root run: chmod 666 {DEVICE}" if error.errno == errno.EACCES else "load the kernel's module: modprobe fuse; a container needs --device /dev/fuse"
        return Finding(DEVICE, MISSING, error.strerror or "cannot be opened", remedy, needed=True)
    return Finding(DEVICE, OK, "can be opened", needed=True)


def _mounting() -> Finding:
    if _may_administer():
        return Finding("mounting", OK, "by mount(2)", needed=True)
    program = fusermount()
    if os.geteuid() == 0:
        return Finding("mounting", MISSING, "root without CAP_SYS_ADMIN", "give the container the capability: docker run --cap-add SYS_ADMIN", needed=True)
    if program is None:
        return Finding("mounting", MISSING, "no fusermount3", _install("fuse3"), needed=True)
    if not os.stat(program).st_mode & 0o4000:
        return Finding("mounting", MISSING, f"{program} is not set-user-ID root", f"have root run: chmod u+s {program}", needed=True)
    return Finding("mounting", OK, f"by {program}", needed=True)


def _may_administer() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _ADMIN & 1)
    return False


def _other_users() -> Finding:
    if os.geteuid() == 0:
        return Finding("-o allow_other", OK, "root may")
    words = Path(FUSE_CONF).read_text().split() if os.path.exists(FUSE_CONF) else []
    if "user_allow_other" in words:
        return Finding("-o allow_other", OK, f"user_allow_other in {FUSE_CONF}")
    return Finding("-o allow_other", LIMITED, "your mounts are for you alone", f"to let others in, have root put the line user_allow_other into {FUSE_CONF}")


def _passthrough() -> Finding:
    name = "passthrough"
    if _version(os.uname().release) < PASSTHROUGH_KERNEL:
        return Finding(name, LIMITED, f"Linux {os.uname().release}", "from Linux 6.9 on the kernel reads and writes local files by itself")
    if not _may_administer():
        return Finding(name, LIMITED, "only for root", "mount as root for the kernel to read and write local files by itself")
    built = _kernel_option("CONFIG_FUSE_PASSTHROUGH")
    if built is False:
        return Finding(name, LIMITED, "not in this kernel", "a kernel with CONFIG_FUSE_PASSTHROUGH reads and writes local files by itself")
    return Finding(name, OK, "the kernel reads and writes local files by itself" if built else "Linux is new enough; joinfs mount --stats shows whether it is used")


def _kernel_option(name: str) -> bool | None:
    """Whether the kernel was built with something; None for not knowing."""
    import gzip  # noqa: PLC0415 - for this alone

    for path in ("/proc/config.gz", f"/boot/config-{os.uname().release}"):
        with contextlib.suppress(OSError, EOFError):
            data = Path(path).read_bytes()
            text = (gzip.decompress(data) if path.endswith(".gz") else data).decode(errors="replace")
            return f"\n{name}=" in text
    return None


def _private_mounts() -> Finding:
    """Whether ``joinfs run`` can mount where its command alone sees it; tried in a process that ends at once."""
    name, flags = "joinfs run", inside.NEW_MOUNTS | (0 if os.geteuid() == 0 else inside.NEW_USER)
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(flags) == 0 else min(ctypes.get_errno(), 255))
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number == 0:
        return Finding(name, OK, "in a namespace of its own")
    return Finding(name, LIMITED, f"no namespace: {os.strerror(abs(number))}; it runs where others see it", _why_no_namespace())


def _why_no_namespace() -> str:
    for path, bad, advice in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ):
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == bad:
                return f"have root allow user namespaces: {advice}"
    return "a container needs --cap-add SYS_ADMIN, or --security-opt seccomp=unconfined, for namespaces"


# -------------------------------------------------------------------- limits and places


def _watches() -> Finding:
    found = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text())
    told = f"{found:,} directories can be watched"
    if found >= FEW_WATCHES:
        return Finding("inotify", OK, told)
    return Finding("inotify", LIMITED, told, "what others change in further ones is seen a second later; have root run: sysctl fs.inotify.max_user_watches=524288")


def _open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= FEW_FILES:
        return Finding("open files", OK, "as many as you like" if hard == resource.RLIM_INFINITY else f"up to {hard:,}")
    return Finding("open files", LIMITED, f"up to {hard:,}", "raise the limit: ulimit -Hn, or nofile in /etc/security/limits.conf")


def _staging() -> Finding:
    place = staging_place()
    if place is None:
        return Finding("staged data", LIMITED, "kept nowhere", "what is being written when a server is killed is lost; mount with -o staging=DIR")
    return Finding("staged data", OK, f"kept in {place}")


def _sqlite() -> Finding:
    return Finding("SQLite", OK, sqlite3.sqlite_version)


def _libfuse() -> Finding:
    found = ctypes.util.find_library("fuse")
    if found is not None:
        return Finding("libfuse 2", OK, found)
    return Finding("libfuse 2", LIMITED, "not there; --driver fusepy needs it, the driver devfuse does not", _install("libfuse2"))


def _dead_mounts() -> Finding:
    dead = []
    for mount in mounts():
        if mount.kind == FSTYPE:
            try:
                os.stat(mount.mountpoint)
            except OSError as error:
                dead += [mount.mountpoint] if error.errno == errno.ENOTCONN else []
    if not dead:
        return Finding("mounts", OK, "none is dead")
    return Finding("mounts", LIMITED, f"the server has died of {', '.join(dead)}", f"joinfs umount {dead[0]}")


_LOOKS: tuple[Callable[[], Finding], ...] = (
    _python, _kernel, _device, _mounting, _other_users, _passthrough, _private_mounts, _watches, _open_files, _staging, _sqlite, _libfuse, _dead_mounts,
)  # fmt: skip


# -------------------------------------------------------------------- extras

# What an extra needs beside Python packages.
_LIBRARIES = {"archives": ("archive", "libarchive13")}


def _extras() -> Iterator[Finding]:
    """A finding on each extra of the installed joinfs that is for its users."""
    try:
        about = importlib.metadata.metadata("joinfs")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("extras", LIMITED, "not known: joinfs is run from where it lies", "install it: pip install joinfs")
        return
    requirements = importlib.metadata.requires("joinfs") or []
    for extra in about.get_all("Provides-Extra") or []:
        if extra not in {"test", "check"}:
            yield _extra(extra, [text for text in requirements if re.search(rf"""extra == ['"]{extra}['"]""", text)])


def _extra(extra: str, requirements: list[str]) -> Finding:
    name = f"joinfs[{extra}]"
    names = [match[0] for text in requirements if (match := re.match(r"[A-Za-z0-9._-]+", text))]
    missing = [package for package in names if not _is_installed(package)]
    if missing:
        return Finding(name, LIMITED, f"without {', '.join(missing)}", f"pip install '{name}'")
    library, package = _LIBRARIES.get(extra, ("", ""))
    if library and ctypes.util.find_library(library) is None:
        return Finding(name, LIMITED, f"without lib{library}", _install(package))
    return Finding(name, OK, ", ".join(f"{package} {importlib.metadata.version(package)}" for package in names))


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _install(package: str) -> str:
    """How a package of the system's is installed here."""
    system = _system()
    name = _PACKAGES[package].get(system, package)
    return f"have root run: {_INSTALL.get(system, 'apt-get install')} {name}"


def _system() -> str:
    """Which family of distributions this is."""
    told = ""
    with contextlib.suppress(OSError):
        told = Path("/etc/os-release").read_text().lower()
    words = re.findall(r'^id(?:_like)?="?([^"\n]*)', told, re.MULTILINE)
    for word in " ".join(words).split():
        for system in _INSTALL:
            if word.startswith(system) or (word in {"ubuntu", "mint"} and system == "debian") or (word in {"rhel", "centos"} and system == "fedora"):
                return system
    return "debian"
