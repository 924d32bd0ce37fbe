"""Joins with a layer that takes long to answer. SEMANTICS.md, Slow stores."""

import threading

import pytest

from joinfs.joined.store import JoinedStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.value import new_stat
from joinfs.stores.views import View

DIRECTORY = new_stat(0o040755)


class Slow(View):
    """A store whose answers wait until they may come."""

    def __init__(self, store):
        super().__init__(store)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()

    @property
    def capabilities(self):
        return self.store.capabilities._replace(slow=True)

    def _ask(self, method, key, *arguments, **named):
        self.asked.set()
        assert self.may_answer.wait(30)
        return super()._ask(method, key, *arguments, **named)


@pytest.fixture
def slow():
    return Slow(MemoryStore())


@pytest.fixture
def join(slow):
    near = MemoryStore()
    with JoinedStore([near, slow], directory_ttl=0.0) as join:
        near.put("d/", DIRECTORY)
        near.from_bytes("d/near", b"near")
        slow.store.put("d/", DIRECTORY)
        slow.store.from_bytes("d/far", b"far")
        assert join.to_bytes("d/far") == b"far"
        yield join
        slow.may_answer.set()


def test_what_is_near_does_not_wait_for_what_is_far(join, slow):
    slow.may_answer.clear()
    slow.asked.clear()
    assert join.to_bytes("d/near") == b"near"
    assert join.stat("d/near").size == 4
    assert slow.asked.wait(30), "what it has of the directory is asked again all the same"


def test_what_changes_far_away_is_seen_in_the_end(join, slow):
    assert join.stat("d/near").is_file
    slow.store.put("e/", DIRECTORY)
    slow.store.from_bytes("e/new", b"new")
    assert join.to_bytes("e/new") == b"new"
    slow.store.delete("e/new")
    with pytest.raises(KeyError):
        join.stat("e/new")


def test_a_directory_that_goes_is_gone_when_that_is_known(join, slow):
    near = join.layers[0]
    slow.store.delete("d/far")
    slow.store.delete("d/")
    near.delete("d/near")
    near.delete("d/")
    with pytest.raises(KeyError):
        join.stat("d/near")
