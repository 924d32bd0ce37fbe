"""What holds of open files through the kernel. SEMANTICS.md, Open files; Unlinked open files; Staged writes."""

import mmap
import os
import tempfile
import threading

import pytest

from joinfs.errors import errno_of


@pytest.fixture
def mnt(mount, upper, scratch, user):
    (scratch / "lower").mkdir()
    for name in ("f", "g"):
        (scratch / "lower" / name).write_bytes(b"lower " + name.encode())
    (scratch / "lower").chmod(0o777)
    for name in ("f", "g"):
        (scratch / "lower" / name).chmod(0o666)
    with mount(upper, scratch / "lower") as mountpoint:
        yield mountpoint
    assert (scratch / "lower" / "f").read_bytes() == b"lower f"
    assert (scratch / "lower" / "g").read_bytes() == b"lower g"


def test_an_unlinked_open_file_can_be_read_written_and_asked(mnt):
    descriptor = os.open(mnt / "f", os.O_RDWR)
    try:
        os.unlink(mnt / "f")
        assert os.listdir(mnt) == ["g"]
        assert os.fstat(descriptor).st_nlink == 0
        os.pwrite(descriptor, b"UPPER", 0)
        os.ftruncate(descriptor, 6)
        os.fchmod(descriptor, 0o600)
        assert os.fstat(descriptor).st_size == 6
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        assert os.pread(descriptor, 100, 0) == b"UPPER "
        assert not (mnt / "f").exists()
    finally:
        os.close(descriptor)
    assert os.listdir(mnt) == ["g"]


def test_a_lower_file_that_is_only_read_can_be_unlinked_meanwhile(mnt):
    with (mnt / "f").open("rb", buffering=0) as file:
        (mnt / "f").unlink()
        assert file.read() == b"lower f"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_temporary_files_work(mnt):
    with tempfile.TemporaryFile(dir=mnt) as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert os.fstat(file.fileno()).st_size == 100_000
        file.seek(99_990)
        assert file.read() == b"x" * 10
    assert sorted(os.listdir(mnt)) == ["f", "g"]


def test_a_file_that_is_replaced_while_open_keeps_its_data_for_who_has_it(mnt):
    with (mnt / "f").open("rb", buffering=0) as file:
        (mnt / "new").write_bytes(b"new")
        os.replace(mnt / "new", mnt / "f")
        assert (mnt / "f").read_bytes() == b"new"
        assert file.read() == b"lower f"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert sorted(os.listdir(mnt)) == ["f", "g"]


def test_names_that_are_removed_while_open_can_be_made_again_at_once(mnt):
    # Regression: the name was found once more while libfuse's hiding of it was being undone.
    for turn in range(300):
        descriptor = os.open(mnt / "again", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(mnt / "again")
        os.close(descriptor)
        assert not (mnt / "again").exists(), turn
    assert sorted(os.listdir(mnt)) == ["f", "g"]


@pytest.mark.parametrize("driver", ["fusepy"], indirect=True)
def test_nobody_else_may_use_the_names_that_libfuse_hides_files_under(mnt):
    with (mnt / "f").open("rb"), pytest.raises(PermissionError):
        os.rename(mnt / "f", mnt / ".fuse_hidden123456789abcdef0")
    assert (mnt / "f").read_bytes() == b"lower f"


def test_who_opened_before_copy_up_sees_what_is_written_after(mnt):
    with (mnt / "f").open("rb", buffering=0) as reader:
        assert reader.read() == b"lower f"
        with (mnt / "f").open("r+b") as writer:
            writer.write(b"UPPER")
        reader.seek(0)
        assert reader.read() == b"UPPER f"


def test_appending_writers_do_not_overwrite_each_other(mnt):
    def append(letter):
        with (mnt / "log").open("ab", buffering=0) as file:
            for _ in range(50):
                file.write(letter * 10)

    (mnt / "log").touch()
    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = (mnt / "log").read_bytes()
    assert len(data) == 1000
    assert all(data[at : at + 10] in {b"a" * 10, b"b" * 10} for at in range(0, 1000, 10))


@pytest.mark.parametrize("first", ["directory", "memory:", "sqlite:u.db"])
def test_a_mapping_of_what_is_open_to_append_is_written_where_it_is_mapped(mount, upper, first):
    with mount(upper if first == "directory" else first) as mnt:
        (mnt / "f").write_bytes(b"x" * 5000)
        descriptor = os.open(mnt / "f", os.O_RDWR | os.O_APPEND)
        with mmap.mmap(descriptor, 5000) as mapped:
            mapped[0] = ord("A")
            mapped.flush()
            os.write(descriptor, b"end")
            mapped[4999] = ord("Z")
        os.close(descriptor)
        assert (mnt / "f").read_bytes() == b"A" + b"x" * 4998 + b"Zend"


def test_a_mapping_is_written_back(mnt):
    (mnt / "map").write_bytes(b"." * 10_000)
    with (mnt / "map").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5000:5005] = b"hello"
        mapped.flush()
    assert (mnt / "map").read_bytes()[4998:5007] == b"..hello.."


def test_large_writes_and_sparse_ones_come_back(mnt):
    block = os.urandom(1 << 20)
    with (mnt / "big").open("wb") as file:
        for _ in range(20):
            file.write(block)
        file.seek(50 << 20)
        file.write(b"end")
        file.flush()
        os.fsync(file.fileno())
    with (mnt / "big").open("rb") as file:
        assert all(file.read(1 << 20) == block for _ in range(20))
        assert file.read(1 << 20) == bytes(1 << 20)
        file.seek(50 << 20)
        assert file.read() == b"end"
    os.truncate(mnt / "big", 10)
    assert (mnt / "big").read_bytes() == block[:10]


def test_space_can_be_allocated_or_the_kernel_says_that_it_cannot(mnt):
    with (mnt / "f").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 10_000)  # glibc writes zeros where the driver has no fallocate
        assert os.fstat(file.fileno()).st_size == 10_000
        assert os.pread(file.fileno(), 10, 0) == b"lower f\0\0\0"


def test_every_error_of_the_host_keeps_its_number():
    assert errno_of(OSError(122, "quota")) == 122
