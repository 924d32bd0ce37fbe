"""What the README shows is so: each of its blocks is run, its example store keeps the contract, its pictures are as they are made."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import joinfs
from tests.conftest import lacking
from tests.docs import picture, recording
from tests.mounted.conftest import mounts_below
from tests.stores import object_servers
from tests.stores.redis_servers import need_redis, redis_server, running_redis  # noqa: F401 - fixtures

CHECKOUT = Path(__file__).parent.parent
README = CHECKOUT / "README.md"
# Each block, with its language, and the heading that it stands under.
BLOCKS = [
    (re.findall(r"^#+ (.+)$", before, re.MULTILINE)[-1], language, text)
    for before, language, text in (
        (README.read_text()[: found.start()], found[1], found[2]) for found in re.finditer(r"^```(\w*)\n(.+?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    )
]
(EXAMPLE,) = (text for heading, language, text in BLOCKS if heading == "A store of your own")
TIMEOUT = 100

exec(compile(EXAMPLE, str(README), "exec"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home directory, with what the README's user has in it; what is mounted below it is unmounted at the end."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        lacking("/dev/fuse")
    for name in ("data/src", "mnt", "project"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/src/main.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "data/table.csv").write_text("a,b\n1,2\n")
    zipped(tmp_path / "archive.zip", {"from-zip": "zip\n"})
    (tmp_path / "project/Makefile").write_text("all install: program\nprogram: main.txt\n\tcp main.txt program\n")
    (tmp_path / "project/main.txt").write_text("program\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for mountpoint in mounts_below(tmp_path):
        subprocess.run(["umount", "-l", mountpoint], check=False, timeout=TIMEOUT)


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def block(heading, number=0):
    """The text of one of the blocks under a heading."""
    return [text for under, _, text in BLOCKS if under == heading][number]


def typed(home, script, **places):
    """Run a block as it would be typed at a shell in a home directory: with a place of ours for /mnt/data, and for what else is said."""
    for ours, theirs in {"/mnt/data": f"{home}/mnt", **places}.items():
        script = script.replace(ours, theirs)
    environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": f"{home}/state", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with (home / "told").open("w+") as told:  # not a pipe: servers in the background would hold it
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told, check=False, timeout=TIMEOUT)
    text = (home / "told").read_text()
    assert done.returncode == 0, text
    return text


# -------------------------------------------------------------------- what is shown


def test_each_block_is_run_here():
    here = Path(__file__).read_text()
    for heading, language, _ in BLOCKS:
        assert language in {"sh", "python"}, heading
        assert f'"{heading}"' in here


def test_the_two_commands():
    assert re.findall(r"^make (\w+)", block("Two commands"), re.MULTILINE) == ["demo", "test"]
    assert "make check test\n" in (CHECKOUT / ".ci/run").read_text()
    demonstrated = subprocess.run([sys.executable, "-m", "joinfs.demo"], capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    assert "Mounted again, the changes are still there." in demonstrated


def test_use(home):
    told = typed(home, block("Use"))
    assert "M  src/main.c\nD  table.csv\n" in told or "D  table.csv\nM  src/main.c\n" in told
    assert "+more" in told
    assert (home / "data/src/main.c").read_text() == "int main(void) { return 0; }\n"
    assert not (home / "data/table.csv").exists()
    ran = typed(home, f"cd project; {block('Use', 1)}")
    assert "A  program" in ran
    assert not (home / "project/program").exists()


# -------------------------------------------------------------------- recipes


def test_a_view_of_a_dataset(home):
    (home / "dataset/2026").mkdir(parents=True)
    (home / "dataset/2026/readings.csv").write_text("1;2\n")
    text = block("A writable view over a dataset that nobody may change")
    assert "1 modified" in typed(home, text)
    assert (home / "dataset/2026/readings.csv").read_text() == "1;2\n"
    (first, *_) = text.splitlines()
    again = typed(home, f"{first}\ncat /mnt/data/2026/readings.csv\njoinfs umount /mnt/data")
    assert "1,2\n" in again
    Path(re.search("into sqlite:(.+)", again)[1]).unlink()  # root's is in /var/lib


def test_a_sandbox_for_a_build(home):
    assert "A  program\n" in typed(home, block("A sandbox for a build"))
    assert not (home / "project/program").exists()
    assert subprocess.run(["tar", "xzOf", home / "build.tar.gz", "program"], capture_output=True, check=True, timeout=TIMEOUT).stdout == b"program\n"


def test_a_container_image(home, need):
    need("umoci")
    (home / "root/etc").mkdir(parents=True)
    (home / "root/etc/os-release").write_text('PRETTY_NAME="Debian"\n')
    for command in ("init --layout oci", "new --image oci:latest", "insert --rootless --image oci:latest root/etc /etc"):
        subprocess.run(["umoci", *command.split()], cwd=home, capture_output=True, check=True, timeout=TIMEOUT)
    told = typed(home, block("A container image as a directory"), **{"oci:image": "oci:oci"})
    assert 'PRETTY_NAME="Debian"' in told
    assert "0  sqlite:changes.db  etc/os-release" in told
    assert subprocess.run(["tar", "xOf", home / "layer.tar", "etc/os-release"], capture_output=True, check=True, timeout=TIMEOUT).stdout == b'PRETTY_NAME="Mine"\n'


def test_an_archive_that_you_can_edit(home):
    zipped(home / "release.zip", {"README": "version 1.0\n", "tests/a": "a", "program": "p"})
    before = (home / "release.zip").read_bytes()
    typed(home, block("An archive that you can edit"))
    with zipfile.ZipFile(home / "release-1.1.zip") as archive:
        assert archive.read("README") == b"version 1.1\n"
        assert sorted(name for name in archive.namelist() if not name.endswith("/")) == ["README", "program"]
    assert (home / "release.zip").read_bytes() == before


def test_a_bucket_and_what_is_nearby(home):
    try:
        import moto.server  # noqa: F401
    except ImportError as error:
        lacking(f"moto[server]: {error}")
    (home / "nearby").mkdir()
    with object_servers.moto() as server:
        server.client.create_bucket(Bucket="measurements")
        for name in ("table.csv", "raw/1.csv"):
            server.put("measurements", f"2026/{name}", b"far\n")
        text = block("One tree over a bucket and what you have nearby").replace("http://localhost:8333", server.endpoint)
        far = typed(home, text)
        (home / "nearby/table.csv").write_text("near\n")
        near = typed(home, text)
        kept = server.names("measurements")
    assert (far, near) == ("far\n", "near\n")
    assert kept == ["2026/raw/1.csv", "2026/table.csv"]


def test_one_tree_for_a_team(home, redis_server):  # noqa: F811 - the fixture
    with object_servers.moto() as server:
        server.client.create_bucket(Bucket="measurements")
        for name in ("table.csv", "raw/1.csv"):
            server.put("measurements", f"2026/{name}", b"far\n")
        far = block("One tree over a bucket and what you have nearby").splitlines()[0]
        text = block("One tree for a team").replace("http://localhost:8333", server.endpoint)
        url = f"redis://localhost:{redis_server.port}/0/team"
        told = typed(home, f"{far}\n{text.replace('redis://localhost/0/team', url)}")
        assert server.names("measurements") == ["2026/raw/1.csv", "2026/table.csv"]
    assert told == "far\n"
    assert (home / "cache").is_dir()
    with joinfs.open_store(url) as store:
        assert store.to_bytes("raw/1.note") == b"sensor 3 was off\n"


# -------------------------------------------------------------------- Python


def test_in_python(home):
    (home / "7.csv").write_text("7\n")
    script = block("In Python").replace("/mnt/data", f"{home}/mnt")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=home, check=True, timeout=TIMEOUT)
    assert done.stdout.split() == ["added", "runs/", "added", "runs/7"]


def test_in_python_with_a_bar(home):
    with joinfs.JoinedStore([joinfs.open_store("sqlite:changes.db"), joinfs.open_store("data")]) as store:
        store.from_bytes("large", bytes(10_000_000))
    done = subprocess.run([sys.executable, "-c", block("In Python", 1)], capture_output=True, text=True, cwd=home, check=True, timeout=TIMEOUT)
    assert "committing" in done.stdout
    assert "100%" in done.stdout
    assert (home / "data/large").stat().st_size == 10_000_000


def test_in_python_with_fsspec(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.csv").write_text("a,b\n1,2\n")
    zipfile.ZipFile(tmp_path / "archive.zip", "w").close()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("In Python", 2), names)
    fs = names["fs"]
    assert fs.find("", maxdepth=2) == ["arrays.zarr/zarr.json", "results/table.csv", "runs/8", "table.csv"]
    assert fs.metadata("runs/8") == {"author": "mel"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["table.csv"]


def test_a_store_of_your_own_is_short():
    assert len(block("A store of your own").splitlines()) < 50


# -------------------------------------------------------------------- pictures


def test_the_picture_is_as_it_is_drawn():
    assert picture.PLACE.read_text() == picture.drawn(), "draw it anew: python -m tests.docs.picture"


@pytest.mark.parametrize("name", recording.SCREENS)
def test_the_screens_show_what_the_commands_print(name, home):
    if os.geteuid() != 0:
        pytest.skip("needs root, who recorded them")
    svg = (recording.HERE / f"{name}.svg").read_text()
    fresh = recording.text_of(recording.drawn(recording.recorded(name), f"joinfs {name}"))
    assert recording.text_of(svg) == fresh, "make them anew: python -m tests.docs.recording"


def test_what_the_readme_links_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()):
        assert (CHECKOUT / target).exists(), target
