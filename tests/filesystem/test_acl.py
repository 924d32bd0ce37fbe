"""POSIX ACLs, against a file system that has them. SEMANTICS.md, Other attributes."""

import os
import stat
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from joinfs.errors import InvalidArgument
from joinfs.filesystem import acl
from tests.conftest import lacking

NOBODY_NAMED = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
MODES = [0, 0o400, 0o604, 0o640, 0o666, 0o750, 0o777, 0o1777]

few = settings(max_examples=60, deadline=None)
permissions = st.integers(0, 7)
modes = st.sampled_from(MODES) | st.integers(0, 0o1777)


def packed(*entries, version=2):
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def entry(tag, permissions, number=NOBODY_NAMED):
    return tag, permissions, number


def minimal(user=7, group=5, other=4):
    return packed(entry(USER_OBJ, user), entry(GROUP_OBJ, group), entry(OTHER, other))


@st.composite
def entries(draw):
    """The entries of a valid ACL."""
    named = st.lists(st.tuples(permissions, st.integers(0, 60000)), max_size=3)
    users, groups = draw(named), draw(named)
    mask = [entry(MASK, draw(permissions))] if users or groups or draw(st.booleans()) else []
    return [
        entry(USER_OBJ, draw(permissions)),
        *(entry(USER, *who) for who in users),
        entry(GROUP_OBJ, draw(permissions)),
        *(entry(GROUP, *who) for who in groups),
        *mask,
        entry(OTHER, draw(permissions)),
    ]


acls = entries().map(lambda some: packed(*some))
NAMING = packed(
    entry(USER_OBJ, 7), entry(USER, 6, 1000), entry(GROUP_OBJ, 7), entry(GROUP, 5, 50), entry(MASK, 5), entry(OTHER, 1)
)
MASKED = packed(entry(USER_OBJ, 6), entry(GROUP_OBJ, 7), entry(MASK, 3), entry(OTHER, 5))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory of a file system that has ACLs. It is the judge, so the umask is one that would show."""
    place = tmp_path_factory.mktemp("acls")
    try:
        os.setxattr(place, acl.DEFAULT, NAMING)
        os.removexattr(place, acl.DEFAULT)
    except OSError as error:
        lacking(f"a temporary directory with POSIX ACLs; for {place}: {error.strerror}")
    umask = os.umask(0o077)
    yield place
    os.umask(umask)


@pytest.fixture(scope="module")
def file(place):
    file = place / "file"
    file.touch()
    return file


def attribute(path, name):
    return os.getxattr(path, name) if name in os.listxattr(path) else None


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def give(path, mode, access):
    """Set mode and access ACL of a file, whatever they were."""
    if attribute(path, acl.ACCESS) is not None:
        os.removexattr(path, acl.ACCESS)
    path.chmod(mode)
    os.setxattr(path, acl.ACCESS, access)


@few
@given(default=acls, mode=modes, is_directory=st.booleans())
@example(NAMING, 0o666, False)
@example(NAMING, 0o777, True)
@example(MASKED, 0o700, False)
@example(minimal(), 0o666, False)
@example(minimal(7, 7, 7), 0o1777, True)
def test_what_is_inherited(place, default, mode, is_directory):
    directory, made = place / "directory", place / "directory" / "made"
    directory.mkdir()
    try:
        os.setxattr(directory, acl.DEFAULT, default)
        if is_directory:
            made.mkdir(mode)
        else:
            os.close(os.open(made, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
        held = {name: value for name in (acl.ACCESS, acl.DEFAULT) if (value := attribute(made, name)) is not None}
        assert acl.inherited(default, mode, is_directory) == (mode_of(made), held)
    finally:
        (made.rmdir if made.is_dir() else made.unlink)()
        directory.rmdir()


@few
@given(access=acls, mode=modes)
@example(NAMING, 0o640)
@example(NAMING, 0o777)
@example(MASKED, 0)
def test_chmod(file, access, mode):
    give(file, 0o600, access)
    there = attribute(file, acl.ACCESS)
    file.chmod(mode)
    assert acl.mode_of(acl.with_mode(access, mode), mode)[0] == mode == mode_of(file)
    assert attribute(file, acl.ACCESS) == (None if there is None else acl.with_mode(there, mode))


@few
@given(access=acls, mode=modes)
@example(NAMING, 0o1777)
@example(MASKED, 0)
@example(minimal(), 0o1000)
def test_setting_an_acl(file, access, mode):
    give(file, mode, access)
    after, is_mode = acl.mode_of(access, mode)
    assert (after, None if is_mode else access) == (mode_of(file), attribute(file, acl.ACCESS))


def test_an_acl_that_says_no_more_than_the_mode_removes_an_older_one(file):
    give(file, 0o600, NAMING)
    os.setxattr(file, acl.ACCESS, minimal())
    assert acl.mode_of(minimal(), 0o600) == (mode_of(file), attribute(file, acl.ACCESS) is None) == (0o754, True)


@pytest.mark.parametrize("nothing", [b"", packed()], ids=["no bytes", "only the header"])
def test_setting_nothing_removes(file, nothing):
    give(file, 0o600, NAMING)
    before = mode_of(file)
    os.setxattr(file, acl.ACCESS, nothing)
    acl.check(nothing)
    assert acl.mode_of(nothing, before) == (mode_of(file), attribute(file, acl.ACCESS) is None) == (before, True)
    assert acl.with_mode(nothing, 0o640) == nothing


def is_refused(access):
    try:
        acl.check(access)
    except InvalidArgument:
        return True
    return False


def is_refused_by_the_judge(path, access):
    try:
        os.setxattr(path, acl.ACCESS, access)
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    "invalid",
    [
        minimal()[:-1],
        minimal() + b"\0",
        b"\2",
        packed(version=1),
        packed(*struct.iter_unpack("<HHI", minimal()[4:]), version=3),
        minimal(user=8),
        minimal(other=0x100),
        packed(entry(USER_OBJ, 7), entry(GROUP_OBJ, 7)),
        packed(entry(USER_OBJ, 7), entry(OTHER, 7), entry(GROUP_OBJ, 7)),
        packed(entry(USER_OBJ, 7), entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(OTHER, 7), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(MASK, 7), entry(MASK, 7), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(USER, 7, 1000), entry(GROUP_OBJ, 7), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(GROUP, 7, 1000), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(USER, 7), entry(GROUP_OBJ, 7), entry(MASK, 7), entry(OTHER, 7)),
        packed(entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(OTHER, 7), entry(64, 7)),
        packed(entry(0, 7), entry(USER_OBJ, 7), entry(GROUP_OBJ, 7), entry(OTHER, 7)),
    ],
    ids=bytes.hex,
)
def test_what_is_refused(file, invalid):
    assert is_refused(invalid)
    assert is_refused_by_the_judge(file, invalid)


@st.composite
def spoiled(draw):
    """Entries of an ACL with one left out, doubled, moved or changed. It may be valid still."""
    some = draw(entries())
    at = draw(st.integers(0, len(some) - 1))
    taken = some.pop(at)
    changed = (draw(st.sampled_from([taken[0], 0, 1, 2, 3, 4, 8, 16, 32, 64])), draw(st.integers(0, 8)), taken[2])
    for another in draw(st.sampled_from([[], [taken], [taken, taken], [changed]])):
        some.insert(draw(st.integers(0, len(some))), another)
    return packed(*some)


@settings(few, max_examples=200)
@given(access=spoiled())
def test_what_is_refused_is_what_the_kernel_refuses(file, access):
    assert is_refused(access) == is_refused_by_the_judge(file, access)
