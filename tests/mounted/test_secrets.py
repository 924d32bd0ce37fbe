"""Mounts of servers with passwords and certificates. SEMANTICS.md, Getting to a PostgreSQL server; Getting to a Redis server."""

from pathlib import Path

import pytest

from tests.mounted.conftest import make_directory
from tests.stores.postgres_servers import DATABASE


@pytest.fixture
def place(scratch, user):
    make_directory(user, scratch / "mnt")
    return scratch


def processes_of(mountpoint):
    """The numbers of the processes that were begun with it in their arguments, and what these are."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:  # it has ended
            continue
        if str(mountpoint).encode() in text:
            yield text


@pytest.mark.parametrize("user", ["root"], indirect=True)
@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_mount_shows_no_secret_and_finds_its_files_again(kind, user, place, monkeypatch, request):
    if kind == "postgres":
        server = request.getfixturevalue("guarded_postgres")
        secret = server.password("encrypted")
        monkeypatch.setenv("PGPASSWORD", secret)
        monkeypatch.setenv("PGSSLROOTCERT", server.certificates.authority.name)
        url = f"postgres://encrypted@127.0.0.1:{server.port}/{DATABASE}?schema={server.new_schema()}&sslmode=verify-full"
    else:
        secret = "the s3cret"
        server = request.getfixturevalue("new_redis")(tls=True, password=secret)
        monkeypatch.setenv("JOINFS_REDIS_PASSWORD", secret)
        monkeypatch.setenv("JOINFS_REDIS_CACERT", server.certificates.authority.name)
        url = server.url()
    mnt = place / "mnt"
    begun = user.joinfs("mount", "--log-file", place / "log", "--log-level", "debug", url, mnt, cwd=server.place)
    assert begun.returncode == 0, begun.stderr
    (mnt / "a").write_text("a")
    if kind == "postgres":
        with server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'encrypted'")
    else:
        server.client.client_kill_filter(_type="normal", skipme=True)
    assert (mnt / "a").read_text() == "a"
    seen = [*processes_of(mnt), Path("/proc/mounts").read_bytes(), (place / "log").read_bytes(), user.joinfs("status", "--json", mnt).stdout.encode()]
    assert len(seen) > 3
    assert [text for text in seen if b"s3cret" in text] == []
    assert user.joinfs("umount", mnt).returncode == 0
