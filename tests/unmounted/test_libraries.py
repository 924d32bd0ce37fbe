"""pandas, zarr, dask and pickle on joinfs://, each for real."""

import pickle
import threading

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr
from dask import bag
from dask.base import tokenize

import joinfs


@pytest.fixture
def options(tmp_path, lower):
    return {"stores": [f"sqlite:{tmp_path}/changes.db", str(lower)]}


def test_pandas_reads_what_is_below_and_writes_to_the_first_store(options, lower, tmp_path):
    (lower / "a.csv").write_text("x,y\n1,2\n3,4\n")
    frame = pd.read_csv("joinfs://a.csv", storage_options=options)
    assert frame.y.tolist() == [2, 4]
    frame.assign(z=5).to_csv("joinfs://out/b.csv", index=False, storage_options=options)
    frame.to_csv("joinfs://a.csv", index=False, header=False, mode="a", storage_options=options)
    assert pd.read_csv("joinfs://out/b.csv", storage_options=options).z.tolist() == [5, 5]
    assert pd.read_csv("joinfs://a.csv", storage_options=options).x.tolist() == [1, 3, 1, 3]
    assert (lower / "a.csv").read_text() == "x,y\n1,2\n3,4\n"
    assert not (lower / "out").exists()


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_pandas_compresses(options, ending):
    frame = pd.DataFrame({"x": range(1000)})
    frame.to_csv(f"joinfs://c.csv.{ending}", index=False, storage_options=options)
    assert pd.read_csv(f"joinfs://c.csv.{ending}", storage_options=options).equals(frame)


def test_a_default_join_can_be_configured(options, lower, monkeypatch):
    (lower / "a.csv").write_text("x\n7\n")
    monkeypatch.setitem(fsspec.config.conf, "joinfs", options)
    assert pd.read_csv("joinfs://a.csv").x.tolist() == [7]


@pytest.mark.parametrize("root", ["joinfs://", "joinfs://deep/group.zarr"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_groups_are_written_and_read(options, root, zarr_format):
    group = zarr.open_group(root, mode="w", storage_options=options, zarr_format=zarr_format)
    array = group.create_array("outer/values", shape=(100, 100), chunks=(10, 100), dtype="f8")
    values = np.random.default_rng(1).random((100, 100))
    array[:] = values
    array.attrs["unit"] = "K"
    group.create_group("outer/empty")
    again = zarr.open_group(root, mode="r", storage_options=options)
    assert np.array_equal(again["outer/values"][:], values)
    assert np.array_equal(again["outer/values"][15:17, 3], values[15:17, 3])
    assert again["outer/values"].attrs["unit"] == "K"
    assert sorted(name for name, _ in again.members(max_depth=None)) == ["outer", "outer/empty", "outer/values"]


def test_a_zarr_array_in_a_lower_store_is_changed_in_the_first_alone(options, lower):
    array = zarr.create_array(lower / "a.zarr", shape=(40,), chunks=(10,), dtype="i4")
    array[:] = 1
    joined = zarr.open_array("joinfs://a.zarr", mode="r+", storage_options=options)
    joined[10:20] = 2
    joined.append(np.full(10, 3, "i4"))
    assert zarr.open_array("joinfs://a.zarr", mode="r", storage_options=options)[:].tolist() == [1] * 10 + [2] * 10 + [1] * 20 + [3] * 10
    assert zarr.open_array(lower / "a.zarr", mode="r")[:].tolist() == [1] * 40


def test_zarr_removes_groups_that_lower_stores_have(options, lower):
    zarr.create_array(lower / "g.zarr" / "a", shape=(4,), dtype="i4")[:] = 1
    zarr.open_group(lower / "g.zarr", mode="a").create_group("b")
    group = zarr.open_group("joinfs://g.zarr", mode="a", storage_options=options)
    del group["a"]
    assert sorted(group) == ["b"]
    assert sorted(zarr.open_group(lower / "g.zarr", mode="r")) == ["a", "b"]


def test_zarr_takes_a_mapper(fs):
    array = zarr.create_array(fs.get_mapper("m.zarr"), shape=(10,), chunks=(5,), dtype="i4")
    array[:] = range(10)
    assert zarr.open_array(fs.get_mapper("/m.zarr"), mode="r")[:].tolist() == list(range(10))
    assert set(fs.get_mapper("m.zarr")) >= {"c/0", "c/1", "zarr.json"}


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_dask_reads_what_a_glob_names(options, lower, scheduler):
    for number in range(5):
        (lower / f"part{number}.txt").write_text(f"{number}\n" * 10)
    fsspec.filesystem("joinfs", **options).pipe_file("part7.txt", b"7\n")
    lines = bag.read_text("joinfs://part*.txt", storage_options=options)
    total = lines.map(int).sum().compute(scheduler=scheduler)
    assert total == 10 * (0 + 1 + 2 + 3 + 4) + 7


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask_writes(options, scheduler, tmp_path):
    numbers = bag.from_sequence(map(str, range(100)), npartitions=8)
    numbers.to_textfiles("joinfs://out/*.txt", storage_options=options, compute_kwargs={"scheduler": scheduler})
    fs = fsspec.filesystem("joinfs", **options)
    assert len(fs.glob("out/*.txt")) == 8
    assert sorted(int(line) for data in fs.cat(fs.ls("out", detail=False)).values() for line in data.split()) == list(range(100))


def test_dask_names_differ_for_different_stores():
    with joinfs.MemoryStore() as one, joinfs.MemoryStore() as other:
        first, second, third = (fsspec.filesystem("joinfs", store=store) for store in (one, other, one))
        first.pipe_file("a", b"1")
        assert not second.exists("a")
        assert tokenize(first) != tokenize(second)
        assert first != second
        assert first == third
        assert hash(first) == hash(third)
        assert third.exists("a")


def test_one_join_is_opened_once_in_a_process(options):
    seen = []
    fs = fsspec.filesystem("joinfs", **options)
    thread = threading.Thread(target=lambda: seen.append(fsspec.filesystem("joinfs", **options)))
    thread.start()
    thread.join()
    assert seen[0] is not fs  # fsspec makes one for each thread
    assert seen[0].store is fs.store


def test_it_is_pickled_by_its_urls(options):
    fs = fsspec.filesystem("joinfs", skip_instance_cache=True, **options)
    fs.pipe_file("a", b"0123456789")
    assert pickle.loads(pickle.dumps(fs)).cat_file("a") == b"0123456789"
    with fs.open("a") as file:
        file.seek(4)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read() == b"456789"
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()).cat_file("a") == b"0123456789"


@pytest.mark.parametrize("stores", [["memory:"], [{"a": b"1"}]])
def test_what_another_process_could_not_open_is_not_pickled(stores, lower):
    fs = fsspec.filesystem("joinfs", stores=[*stores, lower])
    with pytest.raises(TypeError, match="give them all as URLs"):
        pickle.dumps(fs)
