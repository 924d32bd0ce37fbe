"""A join to read and write without a mount."""

import fsspec
import pytest

import joinfs

FIRST = {"memory": "memory:", "sqlite": "sqlite:{}/changes.db", "directory": "dir:{}/changes"}


@pytest.fixture(params=FIRST)
def first(request, tmp_path):
    """The URL of a store that takes the writes."""
    (tmp_path / "changes").mkdir()
    return FIRST[request.param].format(tmp_path)


@pytest.fixture
def lower(tmp_path):
    """A directory that is joined below it."""
    (tmp_path / "lower").mkdir()
    return tmp_path / "lower"


@pytest.fixture
def fs(first, lower):
    with joinfs.JoinedStore([joinfs.open_store(first), joinfs.open_store(lower)]) as store:
        yield fsspec.filesystem("joinfs", store=store)
