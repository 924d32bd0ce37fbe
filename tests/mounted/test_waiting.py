"""One request that takes long does not hold up the others, also where the store answers at once. SEMANTICS.md, Waiting."""

import concurrent.futures
import io
import signal
import subprocess
import sys
import threading

import pytest

import joinfs

PATIENCE = 60
LONG = 2 << 20


class LongStore(joinfs.MemoryStore):
    """What is called long takes until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.begun, self.goes_on = threading.Semaphore(0), threading.Event()

    def _wait(self, key):
        if "long" in key:
            self.begun.release()
            assert self.goes_on.wait(PATIENCE)

    def put(self, key, stat, *arguments, **options):
        if stat.size >= LONG:
            self._wait(key)
        return super().put(key, stat, *arguments, **options)

    def get(self, key):
        self._wait(key)
        return super().get(key)


def put(store, key, data):
    store.set(key, (io.BytesIO(data), {}))


def in_another_process(program, *arguments):
    command = [sys.executable, "-c", f"import os, sys\n{program}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


LONG_ONES = {
    "copied up": "open(sys.argv[1] + '/l/long', 'r+b').write(b'y')",
    "written": "open(sys.argv[1] + '/l/long new', 'wb').write(bytes(2 << 20))",
    "renamed": "os.rename(sys.argv[1] + '/l/long', sys.argv[1] + '/l/long too')",
    "cut": "os.truncate(sys.argv[1] + '/l/long', 2 << 20)",
}


@pytest.mark.parametrize("program", LONG_ONES.values(), ids=LONG_ONES)
def test_a_long_copy_holds_up_nobody_who_reads(mnt, program):
    """Nor does one who waits for it: a directory is made meanwhile. (The kernel itself has nobody look names up beside that.)"""
    lower = joinfs.MemoryStore()
    upper = LongStore()
    with joinfs.JoinedStore([upper, lower]) as store:
        put(lower, "l/long", b"x" * LONG)
        put(lower, "d/other", b"other")
        put(lower, "e/x", b"")
        lower.get = lambda key, get=lower.get: (upper._wait(key), get(key))[1]
        with joinfs.mount(store, mnt), concurrent.futures.ThreadPoolExecutor() as others:
            takes_long = others.submit(in_another_process, program, mnt)
            assert upper.begun.acquire(timeout=PATIENCE)
            waits_for_it = others.submit(in_another_process, "os.mkdir(sys.argv[1] + '/e/new')", mnt)
            assert in_another_process("print(os.listdir(sys.argv[1] + '/d'), open(sys.argv[1] + '/d/other').read())", mnt) == "['other'] other\n"
            assert not takes_long.done()
            upper.goes_on.set()
            takes_long.result(PATIENCE)
            waits_for_it.result(PATIENCE)
            assert (mnt / "e" / "new").is_dir()


class SlowStore(joinfs.MemoryStore):
    """Answers about one file when somebody has been interrupted."""

    def __init__(self):
        super().__init__()
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def lookup(self, key):
        if key == "f" and self.capabilities.slow:
            self.asked.set()
            assert self.goes_on.wait(PATIENCE)
        return super().lookup(key)


def test_a_signal_that_is_handled_makes_nothing_fail(mnt):
    program = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
print(os.stat(sys.argv[1]).st_size)
"""
    store = SlowStore()
    with store:
        put(store, "f", b"data")
        put(store, "d/other", b"")
        store.capabilities = store.capabilities._replace(slow=True)
        with joinfs.mount(store, mnt):
            command = [sys.executable, "-c", f"import os, sys\n{program}", str(mnt / "f")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert store.asked.wait(PATIENCE)
                process.send_signal(signal.SIGUSR1)
                process.send_signal(signal.SIGUSR1)
                in_another_process("os.listdir(sys.argv[1] + '/d')", mnt)  # after the interrupt, which the kernel sends first
                store.goes_on.set()
                output, _ = process.communicate(timeout=PATIENCE)
            assert (process.returncode, output.split()[-1]) in {(0, "4"), (0, "handled")}
            assert "4" in output
