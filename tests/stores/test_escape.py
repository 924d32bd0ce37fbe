"""Keys and their spellings are one to one. SEMANTICS.md, Odd keys."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from joinfs.errors import InvalidKey
from joinfs.stores.escape import escape, unescape
from joinfs.stores.keys import check_key

NASTY = st.lists(
    st.one_of(
        st.sampled_from(["", ".", "..", "%%", "%", "%+", "%=", "a", "%%a%=", "%25", "\0", "x" * 300, "é" * 200, "%" * 90, "\udcff"]),
        st.text(max_size=5).filter(lambda text: "/" not in text),
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@given(NASTY, st.booleans())
@example("%" * 300, True)
def test_every_key_has_a_spelling_that_is_a_key_and_leads_back(key, beside):
    if any("\ud800" <= letter <= "\udc7f" or "\udd00" <= letter <= "\udfff" for letter in key):
        return
    spelling = escape(key, beside)
    check_key(spelling)
    assert unescape(spelling) == (key, beside)


@given(NASTY)
def test_what_spells_a_key_is_its_only_spelling(spelling):
    try:
        key, beside = unescape(spelling)
    except InvalidKey:
        return
    assert escape(key, beside) == spelling


@pytest.mark.parametrize("key", ["a", "a/b", "é", "a%b", "%", "...", " ", "\udcff"])
def test_ordinary_keys_are_spelled_as_they_are(key):
    assert escape(key) == key


def test_odd_keys_are_spelled_as_documented():
    assert escape("../a//b") == "%%%2E%2E/a/%%/b"
    assert escape("a", beside_directory=True) == "%%a%="
