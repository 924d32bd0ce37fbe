"""Any changes to a join whose stores are cached, against the model: a cache shows what is there. SEMANTICS.md, Caches on disk."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from joinfs.joined.store import JoinedStore
from joinfs.stores import value
from joinfs.stores.caching import CachingStore
from tests.model.test_join_machine import FilesystemActor, JoinMachine, StoreActor


class CachedMachine(JoinMachine):
    """A join of caches that believe what they were told for ever, unless they hear otherwise."""

    def make_upper(self):
        return self.cached(super().make_upper())

    def make_join(self):
        lowers = [self.closing.enter_context(self.cached(lower)) for lower in self.lowers]
        return JoinedStore([self.upper, *lowers])

    def cached(self, store):
        return CachingStore(store, self.scratch / "cache", ttl=1e6)


@pytest.mark.parametrize("actor", [StoreActor, FilesystemActor])
@pytest.mark.parametrize("upper", ["memory", "directory", "sqlite"])
@pytest.mark.timeout(600)
def test_a_join_of_caches_is_what_the_model_says(upper, actor, monkeypatch):
    monkeypatch.setattr(value, "SETTLED", 0)
    machine = type("Machine", (CachedMachine,), {"upper_kind": upper, "actor_class": actor})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("JOINFS_EXAMPLES", "20")), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
