"""The gate that readers share and a transaction has alone."""

import threading
import time

import pytest

from joinfs.stores.gate import Gate

TURNS = 300


@pytest.fixture
def gate():
    return Gate()


def started(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def joined(*threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_who_has_it_alone_keeps_the_others_out_and_nobody_waits_for_ever(gate):
    inside, wrong, finished = [0], [], threading.Event()

    def read():
        while not finished.is_set():
            with gate.shared(), gate.shared():
                if inside[0]:
                    wrong.append("a reader beside who has it alone")

    def write():
        for _ in range(TURNS):
            with gate.alone():
                inside[0] += 1
                if inside[0] != 1:
                    wrong.append("two have it alone")
                with gate.shared():
                    assert gate.is_mine()
                inside[0] -= 1

    readers, writers = [started(read) for _ in range(3)], [started(write) for _ in range(2)]
    joined(*writers)
    finished.set()
    joined(*readers)
    assert wrong == []
    assert not gate.is_mine()


def test_sharing_nests_while_somebody_waits_to_have_it_alone(gate):
    alone = threading.Event()

    def write():
        with gate.alone():
            alone.set()

    with gate.shared():
        writer = started(write)
        while not gate._waiting:
            time.sleep(0.001)
        with gate.shared():  # would wait for ever for who waits for us
            assert not alone.is_set()
    joined(writer)
    assert alone.is_set()


def test_after_an_error_it_is_open(gate):
    with pytest.raises(ValueError), gate.alone():
        raise ValueError
    with pytest.raises(ValueError), gate.shared():
        raise ValueError
    with gate.alone():
        assert gate.is_mine()
    joined(started(lambda: gate.shared().__enter__()))
