"""The manager that carries events."""

import logging
import threading

import pytest

from joinfs.events import EventManager, StoreDeleteEvent, StoreEvent, StoreKeyEvent, StoreSetEvent, StoreUpdateEvent


@pytest.fixture
def manager():
    return EventManager()


def test_listeners_hear_a_class_and_its_subclasses(manager):
    heard = []
    manager.connect(StoreSetEvent, heard.append)
    events = [StoreSetEvent(source=1, key="a"), StoreUpdateEvent(source=1, key="b"), StoreDeleteEvent(source=1, key="c")]
    for event in events:
        manager.emit(event)
    assert heard == events[:2]


def test_filters_compare_attributes(manager):
    heard = []
    manager.connect(StoreKeyEvent, heard.append, filter={"key": "a", "source": 1})
    for source, key in ((1, "a"), (1, "b"), (2, "a")):
        manager.emit(StoreSetEvent(source=source, key=key))
    assert [(event.source, event.key) for event in heard] == [(1, "a")]
    manager.connect(StoreKeyEvent, heard.append, filter={"absent": None})
    manager.emit(StoreSetEvent(source=2, key="z"))
    assert len(heard) == 1


def test_filters_look_into_attributes(manager):
    heard = []
    manager.connect(StoreKeyEvent, heard.append, filter={"source.real": 2, "key": "a"})
    for source in (1, 2, "text"):
        manager.emit(StoreSetEvent(source=source, key="a"))
    assert [event.source for event in heard] == [2]


def test_higher_priority_comes_first_and_can_handle_for_all(manager):
    heard = []
    manager.connect(StoreEvent, lambda event: heard.append("second"))
    manager.connect(StoreEvent, lambda event: heard.append("first"), priority=5)
    manager.connect(StoreEvent, lambda event: heard.append("third"))
    manager.emit(StoreEvent(source=1))
    assert heard == ["first", "second", "third"]
    manager.connect(StoreEvent, StoreEvent.mark_as_handled, priority=9)
    manager.emit(StoreEvent(source=1))
    assert len(heard) == 3


def test_disconnecting_and_disabling(manager):
    heard = []
    manager.connect(StoreSetEvent, heard.append)
    manager.disable(StoreKeyEvent)
    manager.emit(StoreSetEvent(source=1, key="a"))
    manager.enable(StoreKeyEvent)
    manager.emit(StoreSetEvent(source=1, key="b"))
    assert manager.listening()
    manager.disconnect(StoreSetEvent, heard.append)
    manager.emit(StoreSetEvent(source=1, key="c"))
    assert [event.key for event in heard] == ["b"]
    assert not manager.listening()
    with pytest.raises(KeyError):
        manager.disconnect(StoreSetEvent, heard.append)


def test_disabled_classes_and_those_below_are_told(manager):
    manager.disable(StoreSetEvent)
    assert [manager.is_enabled(cls) for cls in (StoreEvent, StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent)] == [
        True, False, False, True,
    ]  # fmt: skip


def test_connecting_again_changes_filter_and_priority(manager):
    heard = []
    manager.connect(StoreKeyEvent, heard.append, filter={"key": "a"})
    manager.connect(StoreKeyEvent, heard.append)
    manager.emit(StoreSetEvent(source=1, key="a"))
    manager.emit(StoreSetEvent(source=1, key="b"))
    assert [event.key for event in heard] == ["a", "b"]


def test_events_can_be_carried_by_a_thread(manager):
    threads = []
    manager.connect(StoreEvent, lambda event: threads.append(threading.current_thread()))
    thread = manager.emit(StoreEvent(source=1), block=False)
    thread.join(10)
    assert threads == [thread]


def test_a_filter_that_cannot_compare_harms_nobody(manager):
    class Odd:
        def __eq__(self, other):
            raise RuntimeError

        __hash__ = None

    heard = []
    manager.connect(StoreKeyEvent, heard.append, filter={"source": Odd()}, priority=1)
    manager.connect(StoreEvent, heard.append)
    manager.emit(StoreSetEvent(source=1, key="a"))
    assert len(heard) == 1


def test_events_are_equal_to_themselves_only():
    event = StoreSetEvent(source=1, key="a")
    assert event != StoreSetEvent(source=1, key="a")
    assert len({event, event}) == 1


def test_a_listener_that_raises_harms_nobody(manager, caplog):
    heard = []
    manager.connect(StoreEvent, lambda event: 1 / 0, priority=1)
    manager.connect(StoreEvent, heard.append)
    with caplog.at_level(logging.ERROR):
        manager.emit(StoreEvent(source=1))
    assert len(heard) == 1
    assert "a listener for StoreEvent failed" in caplog.text
