"""What every test may need: to know what this machine lacks, and to say so."""

import os
import shutil

import pytest


def lacking(what):
    """Skip for want of something; in CI nothing may be wanting, so there it fails."""
    if os.environ.get("CI"):
        pytest.fail(f"CI lacks {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture
def need():
    """Call with the names of programs that the test runs."""

    def need(*programs):
        for program in programs:
            if shutil.which(program) is None:
                lacking(program)

    return need
