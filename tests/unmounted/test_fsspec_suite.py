"""fsspec's own tests of file systems, as an outside judge: they are part of its wheel."""

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)


class JoinFixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, fs):  # that of conftest.py, and not the abstract one
        return fs

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self):
        return "some/where"


class TestCopy(JoinFixtures, AbstractCopyTests):
    pass


class TestGet(JoinFixtures, AbstractGetTests):
    pass


class TestPut(JoinFixtures, AbstractPutTests):
    pass


class TestOpen(JoinFixtures, AbstractOpenTests):
    pass


class TestPipe(JoinFixtures, AbstractPipeTests):
    pass
