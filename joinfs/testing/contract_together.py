"""The part of the contract that is about several writes, several threads, and events."""

import contextlib
import itertools
import queue
import stat as stat_module
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from joinfs.errors import IsADirectory, NotConnected, Unsupported
from joinfs.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from joinfs.stores import Stat, Store
from joinfs.testing.contract_reading import Failing, data, in_threads


class TogetherContract:
    """What holds of writes that belong together, and of what is told about them."""

    def seed(self, place: Path, key: str, content: bytes) -> bool:
        """Put a value into the medium without the store, as others do; False if that cannot be done."""
        return False

    @pytest.fixture
    def heard(self, store: Store) -> list[StoreEvent]:
        events: list[StoreEvent] = []
        store.event_manager.connect(StoreEvent, events.append)
        return events

    # ---------------------------------------------------------------- several at once

    def test_the_longer_of_two_rows_is_cut(self, store: Store) -> None:
        store.multiset(iter(["a", "b", "c"]), iter([(data(b"1"), {"n": "1"}), (data(b"2"), {})]))
        assert sorted(store.keys()) == ["a", "b"]
        store.multiset_data(iter(["a", "b"]), iter([data(b"3"), data(b"4"), data(b"5")]))
        store.multiset_metadata(iter(["b"]), iter([{"m": "1"}, {}]))
        store.multiupdate_metadata(iter(["a", "b"]), iter([{"k": "1"}, {"k": "2"}]))
        assert list(store.multiget_metadata(["a", "b"])) == [{"n": "1", "k": "1"}, {"m": "1", "k": "2"}]
        assert [store.to_bytes(key) for key in ("a", "b")] == [b"3", b"4"]

    def test_a_transaction_is_all_or_nothing_or_the_store_says_that_it_is_not(self, store: Store) -> None:
        store.set("a", (data(b"old"), {"n": "1"}))
        store.set("d/b", (data(b"b"), {}))
        with pytest.raises(RuntimeError), store.transaction("fails"):
            store.set("a", (data(b"new"), {}))
            store.set("new", (data(b"new"), {}))
            store.delete("d/b")
            with store.transaction("inner"):
                store.rename("d/", "e/")
            raise RuntimeError
        if store.capabilities.transactions:
            assert sorted(store.keys()) == ["a", "d/b"]
            assert (store.to_bytes("a"), store.get_metadata("a")) == (b"old", {"n": "1"})
        else:
            assert store.to_bytes("a") == b"new"
        with store.transaction("succeeds"):
            store.set("a", (data(b"newer"), {}))
            assert store.to_bytes("a") == b"newer"
        assert store.to_bytes("a") == b"newer"

    def test_a_part_of_a_transaction_that_fails_is_undone_alone(self, store: Store, heard: list[StoreEvent]) -> None:
        store.set("a", (data(b"old"), {"n": "1"}))
        store.set("d/b", (data(b"b"), {}))
        heard.clear()
        with store.transaction("whole"):
            store.set_data("a", data(b"before"))
            with pytest.raises(KeyError), store.transaction("part"):
                store.set("a", (data(b"within"), {}))
                store.rename("d/", "e/")
                store.multiset_metadata(["new", "absent/"], [{}, {}])
            store.update_metadata("a", {"m": "2"})
        if store.capabilities.transactions:
            assert sorted(store.keys()) == ["a", "d/b"]
            assert (store.to_bytes("a"), store.get_metadata("a")) == (b"before", {"n": "1", "m": "2"})
            assert [event.key for event in heard if isinstance(event, StoreSetEvent | StoreDeleteEvent)] == ["a", "a"]
        else:
            assert sorted(store.keys()) == ["a", "e/b", "new"]

    def test_what_fails_in_a_transaction_leaves_nothing(self, store: Store) -> None:
        store.put("a/", Stat(stat_module.S_IFDIR | 0o750), None, {"k": "v"})
        store.set("b", (data(b"old"), {}))
        old = store.get_data("b")
        with contextlib.suppress(RuntimeError), store.transaction("fails in the end"):
            with pytest.raises((KeyError, IsADirectory)), store.transaction("part"):
                store.set_metadata("a", {"x": "y"})
            with pytest.raises(OSError, match="broke"):
                store.set("b", (Failing(), {}))
            with pytest.raises(Unsupported):
                store.set("b", (data(b"new"), {"no": object()}))
            store.set("b", (data(b"new"), {}))
            assert store.stat("b").nlink == 1
            with old:
                assert old.read() == b"old"
            raise RuntimeError
        assert store.get_metadata("a/") == {"k": "v"}

    def test_a_transaction_needs_a_connection(self, store: Store, heard: list[StoreEvent]) -> None:
        store.disconnect()
        with pytest.raises(NotConnected), store.transaction("none"):
            pytest.fail("it was begun")
        assert heard == []
        store.connect()

    def test_other_threads_see_a_transaction_whole(self, store: Store) -> None:
        if not store.capabilities.transactions:
            return
        store.set("a", (data(b"old"), {}))
        inside, seen = threading.Event(), list[bytes]()

        def look() -> None:
            inside.wait(10)
            seen.append(store.to_bytes("a"))

        thread = threading.Thread(target=look)
        thread.start()
        with store.transaction("half done"):
            store.set("a", (data(b"half"), {}))
            inside.set()
            thread.join(0.2)
            store.set("a", (data(b"done"), {}))
        thread.join(10)
        assert seen in ([b"old"], [b"done"])

    def test_threads_that_write_lose_nothing(self, store: Store) -> None:
        numbers = iter(range(100))
        lock = threading.Lock()

        def write() -> None:
            with lock:
                number = next(numbers)
            for step in range(15):
                store.set(f"d{step % 3}/{number}-{step}", (data(b"%d" % step * 1000), {"n": number}))
                store.set_data("shared", data(b"%d" % number * 1000))

        in_threads(write, 6)
        assert len(list(store.keys())) == 6 * 15 + 1
        assert store.to_bytes("d1/0-1") == b"1" * 1000
        shared = store.to_bytes("shared")
        assert shared == shared[:1] * 1000

    # ---------------------------------------------------------------- events

    def test_events_of_writes(self, store: Store, heard: list[StoreEvent]) -> None:
        store.set("a", (data(b"1"), {"n": "1"}))
        store.set("a", (data(b"2"), {"n": "2"}))
        store.set_metadata("a", {"n": "3"})
        store.delete("a")
        kinds = [StoreSetEvent, StoreUpdateEvent, StoreUpdateEvent, StoreDeleteEvent]
        writes = [e for e in heard if isinstance(e, StoreSetEvent | StoreDeleteEvent)]
        assert [type(event) for event in writes] == kinds
        assert [event.metadata for event in writes] == [{"n": "1"}, {"n": "2"}, {"n": "3"}, {"n": "3"}]
        assert {event.key for event in writes} == {"a"}
        assert all(event.source is store for event in heard)

    def test_events_of_renames_and_swaps(self, store: Store, heard: list[StoreEvent]) -> None:
        def told() -> list[tuple[type, str]]:
            writes = [(type(event), event.key) for event in heard if isinstance(event, StoreSetEvent | StoreDeleteEvent)]
            heard.clear()
            return writes

        store.set("a", (data(b"1"), {}))
        store.set("d/b", (data(b"2"), {}))
        told()
        store.rename("a", "a")
        assert told() == []
        store.rename("a", "c")
        assert told() == [(StoreDeleteEvent, "a"), (StoreSetEvent, "c")]
        store.rename("c", "d/b")
        assert told() == [(StoreDeleteEvent, "c"), (StoreUpdateEvent, "d/b")]
        store.set("a", (data(b"1"), {}))
        told()
        with contextlib.suppress(Unsupported):
            store.exchange("a", "d/")
            assert told() == [(StoreUpdateEvent, "a/"), (StoreUpdateEvent, "d")]

    def test_what_is_no_metadata_is_refused_whoever_listens(self, store: Store, heard: list[StoreEvent]) -> None:
        for nothing in (threading.Lock(), object(), {1, 2}, b"bytes", float("nan")):
            with pytest.raises(Unsupported):
                store.set("a", (data(b""), {"x": nothing}))
        assert heard == []

    def test_metadata_is_nobody_elses(self, store: Store, heard: list[StoreEvent]) -> None:
        given = {"row": [1]}
        store.set("a", (data(b""), given))
        given["row"].append(2)
        for shared in (store.get_metadata("a"), store.get("a").metadata, next(store.query())[1]):
            shared["row"].append(3)
        heard[-1].metadata["row"].append(4)  # type: ignore[attr-defined]
        assert store.get_metadata("a") == {"row": [1]}

    def test_progress_is_told_before_the_write_is(self, store: Store, heard: list[StoreEvent]) -> None:
        store.set("a", (data(b"x" * 5000), {}), 1000)
        assert type(heard[0]) is StoreProgressStartEvent
        assert [type(event) for event in heard[-2:]] == [StoreProgressEndEvent, StoreSetEvent]
        assert [(event.done, event.total) for event in heard if isinstance(event, StoreProgressEndEvent)] == [(5000, 5000)]

    def test_reading_whole_values_tells_its_progress(self, store: Store, heard: list[StoreEvent], tmp_path: Path) -> None:
        store.set("a", (data(b"x" * 5000), {}))
        for read in (lambda: store.to_bytes("a", 1000), lambda: store.to_file("a", str(tmp_path / "out"), 1000)):
            heard.clear()
            read()
            done = [event.done for event in heard if isinstance(event, StoreProgressEvent)]
            assert (done[0], done[-1], done == sorted(done), len(done) >= 7) == (0, 5000, True, True)
            assert all(event.source is store and event.key == "a" for event in heard if isinstance(event, StoreProgressEvent))

    def test_a_transfer_that_breaks_ends_as_failed(self, store: Store, heard: list[StoreEvent]) -> None:
        with pytest.raises(OSError, match="broke"):
            store.set("a", (Failing(), {}))
        assert [event.failed for event in heard if isinstance(event, StoreProgressEndEvent)] == [True]
        assert not [event for event in heard if isinstance(event, StoreSetEvent)]

    # ---------------------------------------------------------------- being told of changes

    @pytest.fixture
    def told(self, store: Store) -> "queue.SimpleQueue[str | None]":
        keys: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        store.subscribe(keys.put)
        return keys

    def test_subscribers_are_told_of_every_write(self, store: Store, told: "queue.SimpleQueue[str | None]") -> None:
        store.set("d/b", (data(b"b"), {}))
        writes: list[tuple[Callable[[], object], set[str]]] = [
            (lambda: store.set("a", (data(b"1"), {})), {"a"}),
            (lambda: store.set_data("a", data(b"2")), {"a"}),
            (lambda: store.put("a", Stat(stat_module.S_IFREG | 0o600), data(b"3")), {"a"}),
            (lambda: store.set_metadata("a", {"n": "1"}), {"a"}),
            (lambda: store.update_metadata("a", {"m": "1"}), {"a"}),
            (lambda: store.set_stat("a", mode=0o640), {"a"}),
            (lambda: store.set_xattr("a", "trusted.x", b"1"), {"a"}),
            (lambda: store.put("e/", Stat(stat_module.S_IFDIR | 0o755)), {"e"}),
            (lambda: store.set_stat("d/", mtime=5), {"d"}),
            (lambda: store.rename("a", "c"), {"a", "c"}),
            (lambda: store.link("d/b", "d/l"), {"d/b", "d/l"}),
            (lambda: store.rename("d/", "f/"), {"d/", "f/"}),
            (lambda: store.delete("f/b"), {"f/b"}),
            (lambda: store.from_bytes("g", b""), {"g"}),
            (lambda: store.exchange("g", "f/"), {"g", "f/"}),
        ]
        for write, keys in writes:
            drain(told)
            with contextlib.suppress(Unsupported):
                write()
                assert sorted(drain(told), key=str) == sorted(keys)
        assert not store._heard()

    def test_what_is_told_can_be_seen(self, store: Store) -> None:
        seen: list[bytes] = []

        def look(_: str | None) -> None:
            thread = threading.Thread(target=lambda: seen.append(store.to_bytes("a")))
            thread.start()
            thread.join(10)

        store.subscribe(look)
        store.set_data("a", data(b"1"))
        with store.transaction("two"):
            store.set_data("a", data(b"2"))
            store.set_data("a", data(b"3"))
        assert seen == [b"1", b"3"]

    def test_subscribers_are_told_of_a_transaction_at_its_end(self, store: Store, told: "queue.SimpleQueue[str | None]") -> None:
        with store.transaction("whole"):
            store.multiset_data(["a", "b"], [data(b"1"), data(b"2")])
            store.set_metadata("a", {"n": "1"})
            assert drain(told) == []
        assert drain(told) == ["a", "b"]
        store.multiset_metadata(["a", "b"], [{}, {}])
        assert drain(told) == ["a", "b"]

    def test_who_subscribes_within_a_transaction_is_told_that_all_may_have_changed(self, store: Store) -> None:
        keys: list[str | None] = []
        with store.transaction("whole"):
            store.set_data("a", data(b"1"))
            store.subscribe(keys.append)
        assert None in keys

    def test_a_subscriber_that_fails_harms_nobody(
        self, store: Store, told: "queue.SimpleQueue[str | None]", caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(key: str | None) -> None:
            raise RuntimeError(key)

        store.unsubscribe(told.put)
        store.subscribe(fail)
        store.subscribe(told.put)
        store.set_data("a", data(b"1"))
        assert (store.to_bytes("a"), drain(told)) == (b"1", ["a"])
        assert "RuntimeError: a" in caplog.text

    def test_who_is_not_subscribed_is_not_told(self, store: Store, told: "queue.SimpleQueue[str | None]") -> None:
        store.subscribe(told.put)
        store.set_data("a", data(b"1"))
        assert drain(told) == ["a"]
        store.unsubscribe(told.put)
        store.unsubscribe(told.put)
        store.set_data("a", data(b"2"))
        assert drain(told) == []

    def test_a_store_says_what_it_can_watch(self, store: Store) -> None:
        store.set_data("d/a", data(b"1"))
        can = store.watch("d/")
        assert store.watch("d/") == can
        for key in ("absent/", "d/a", "d/a/", "d"):
            assert not store.watch(key)
            store.unwatch(key)
        store.unwatch("d/")
        store.unwatch("d/")
        assert store.watch("d/") == can
        store.disconnect()
        store.unwatch("d/")
        with pytest.raises(NotConnected):
            store.watch("d/")

    def test_what_others_do_in_a_watched_directory_is_told(
        self, store: Store, tmp_path: Path, told: "queue.SimpleQueue[str | None]"
    ) -> None:
        store.set_data("d/ours", data(b"1"))
        if not (store.watch("") and store.watch("d/")):
            pytest.skip("the store cannot tell")
        drain(told)
        if not self.seed(tmp_path, "d/theirs", b"theirs"):
            pytest.skip("the medium has no room for what others put there")
        while told.get(timeout=10) not in {"d/theirs", None}:
            pass
        assert store.to_bytes("d/theirs") == b"theirs"

    # ---------------------------------------------------------------- all at once

    def test_eight_threads_mix_every_method(self, store: Store) -> None:
        """Nothing is lost, and no value is torn: each is one letter, many times, and says which in its metadata."""
        numbers = itertools.count()
        store.set("counts", (data(b""), {}))

        def mix() -> None:
            number = next(numbers)
            letter = chr(97 + number)
            for step in range(6):
                mix_once(store, f"own{number}/", letter, step)
                assert len(list(store.query_keys(letter=letter, step=step))) == 1
                assert {name for name, _ in store.list("")} <= {"shared", "counts", *(f"own{n}" for n in range(8))}
                store.update_metadata("counts", {f"{letter}{step}": number})
                store.set_data("counts", data(letter.encode()))

        in_threads(mix, 8)
        assert len(list(store.keys())) == 8 * 7 + 2
        assert store.get_metadata("counts") == {f"{chr(97 + n)}{step}": n for n in range(8) for step in range(6)}
        for number in range(8):
            assert store.get_metadata(f"own{number}/x") == {f"n{step}": step for step in range(6)}
            assert store.to_bytes(f"own{number}/5") == (b"%c" % (97 + number)) * 3000

    def test_events_of_a_transaction_follow_its_end(self, store: Store, heard: list[StoreEvent]) -> None:
        with store.transaction("notes"):
            store.set("a", (data(b""), {}))
            store.set("b", (data(b""), {}))
        kinds = [type(event) for event in heard if not isinstance(event, StoreProgressStartEvent | StoreProgressEndEvent)]
        assert kinds == [StoreTransactionStartEvent, StoreTransactionEndEvent, StoreSetEvent, StoreSetEvent]
        heard.clear()
        with pytest.raises(RuntimeError), store.transaction("fails"):
            store.delete("a")
            raise RuntimeError
        undone = store.capabilities.transactions
        assert [type(event) for event in heard] == [StoreTransactionStartEvent, *([] if undone else [StoreDeleteEvent])]


def drain(told: "queue.SimpleQueue[str | None]") -> list[str | None]:
    """What has been told until now."""
    keys = []
    with contextlib.suppress(queue.Empty):
        while True:
            keys.append(told.get_nowait())
    return keys


def mix_once(store: Store, directory: str, letter: str, step: int) -> None:
    """Write, read, rename and look for keys of one thread, and one that all threads write."""
    store.set(f"{directory}{step}", (data(letter.encode() * 3000), {"letter": letter, "step": step}))
    store.set("shared", (data(letter.encode() * 70_000), {"letter": letter}))
    with store.transaction("two at once"):
        store.set_data(f"{directory}x", data(letter.encode()))
        store.update_metadata(f"{directory}x", {f"n{step}": step})
    stream, metadata = store.get("shared")
    with stream:
        assert stream.read() == metadata["letter"].encode() * 70_000
    piece = store.read("shared", 10, 20)
    assert piece == piece[:1] * 20
    store.rename(f"{directory}x", f"{directory}y")
    store.rename(f"{directory}y", f"{directory}x")
    assert sorted(store.glob(f"{directory}?")) == [*(f"{directory}{n}" for n in range(step + 1)), f"{directory}x"]
    assert store.exists("shared")
