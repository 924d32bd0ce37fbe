"""Getting to a Redis server that has users, TLS, or a cluster around it. SEMANTICS.md, Getting to a Redis server."""

import io
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import joinfs
from joinfs.errors import AccessDenied, JoinfsError, StoreUnavailable, UsageError
from joinfs.stores import Stat
from joinfs.stores.redis_scripts import CHUNK, SCRIPTS
from joinfs.stores.redis_store import RedisStore
from tests.stores.redis_servers import free_port
from tests.stores.test_redis_watching import WRITES
from tests.stores.test_watching import Told, set_data

SEMANTICS = Path(joinfs.__file__).parent / "SEMANTICS.md"


def refused(url, error, **given):
    """What is said to who cannot open it: one sentence, of one line, in which there is no password."""
    with pytest.raises(JoinfsError) as told:
        joinfs.open_store(url, **given)
    text = str(told.value)
    assert (type(told.value), text.count("\n"), "s3cret" in text) == (error, 0, False)
    return text


# ---------------------------------------------------------------- users


def test_a_wrong_password_is_said_in_one_line(new_redis, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    url = new_redis(password="the s3cret").url()
    assert "taken from JOINFS_REDIS_PASSWORD): Authentication required" in refused(url, AccessDenied)
    monkeypatch.setenv("JOINFS_REDIS_PASSWORD", "wrong s3cret")
    assert "does not let us in" in refused(url, AccessDenied)
    assert "does not let us in" in refused(url.replace("//", "//jo@"), AccessDenied)
    done = subprocess.run([sys.executable, "-m", "joinfs", "ls", url], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n"), "s3cret" in done.stderr + caplog.text) == (1, "", 1, False)


def rules(prefix, name="jo", without=()):
    """What the document says that a user needs, as redis-cli takes it."""
    (line,) = re.findall(r"^ +ACL SETUSER NAME (.+)$", SEMANTICS.read_text(), re.MULTILINE)
    words = line.replace("PREFIX", prefix).replace("PASSWORD", "word").split()
    return ["ACL", "SETUSER", name, "reset", *[word for word in words if word not in without]]


@pytest.fixture
def server(new_redis):
    return new_redis()


def as_jo(server, **given):
    store = RedisStore(server.url("team").replace("//", "//jo@"), **given)
    store.connect("word")
    return store


def denied(server):
    with pytest.raises(AccessDenied) as told:
        as_jo(server)
    return str(told.value)


def fill(store):
    store.set("d/a", (io.BytesIO(b"1"), {"n": 1}))
    store.set_data("large", io.BytesIO(bytes(2 * CHUNK)))
    store.put("x/", Stat(0o040755))


def test_the_rights_of_the_document_are_enough(server, caplog):
    server.client.execute_command(*rules("team"))
    for write, _ in WRITES:
        server.client.flushall()
        with as_jo(server) as store, as_jo(server) as other:
            fill(store)
            told = Told(other)
            assert other.watch("")
            write(store)
            store.set_data("told", io.BytesIO(b""))
            assert told.until("told")
            other.catch_up()
            assert list(store.check()) == []
    with as_jo(server) as store:
        fill(store)
        with store.get("large").data as stream:
            store.delete("large")
            assert len(stream.read()) == 2 * CHUNK
        assert (list(store.query_keys(n=1)), store.usage().blocks > 0) == (["d/a"], True)
    assert "WARNING" not in caplog.text


def test_who_reads_needs_less(server):
    with RedisStore(server.url("team")) as store:
        fill(store)
        lacking = rules("team", without=("~{team}*", "+@write", "+evalsha", "+time", "+publish"))
        server.client.execute_command(*lacking, "%R~{team}*")
        assert "does not let us do this" in denied(server)
        with as_jo(server, read_only=True) as reader:
            told = Told(reader)
            assert reader.watch("")
            assert (len(reader.to_bytes("large")), list(reader.query_keys(n=1)), list(reader.check())) == (2 * CHUNK, ["d/a"], [])
            set_data(store, "b")
            assert told.until("b")


def test_who_lacks_a_right_is_refused_before_anything_is_written(server):
    called = {command for script in SCRIPTS for command in re.findall(rb"call\('([A-Z]+)'", script.text)}
    assert len(called) > 20
    for command in sorted(called):
        server.client.execute_command(*rules("team"), f"-{command.decode()}")
        denied(server)
    server.client.execute_command(*rules("team"), "resetchannels")
    denied(server)
    kinds = ["n:", "l:", "v:", "m:", "x:", "d:", "f:", "b:", "h:", "w:", "uploads", "trash", "store"]
    for kind in kinds:
        patterns = [f"~{{team}}:{other}*" for other in kinds if other != kind]
        server.client.execute_command(*rules("team", without=("~{team}*",)), "~{team}", *patterns)
        assert "is lacking" in denied(server)
    server.client.execute_command(*rules("other"))
    denied(server)
    assert server.client.dbsize() == 0


def test_a_replica_that_has_no_store_says_where_to_make_one(new_redis):
    replica = new_redis("--replicaof", "127.0.0.1", str(free_port()), "--replica-serve-stale-data", "yes")
    assert "no store yet on this replica" in refused(replica.url("x"), StoreUnavailable)


# ---------------------------------------------------------------- TLS


def test_who_the_server_is_is_looked_at(new_redis, monkeypatch):
    server = new_redis(tls=True)
    url, authority = server.url("x"), str(server.certificates.authority)
    assert "JOINFS_REDIS_CACERT or SSL_CERT_FILE" in refused(url, StoreUnavailable)
    for name in ("SSL_CERT_FILE", "JOINFS_REDIS_CACERT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, authority)
            with RedisStore(url) as store:
                set_data(store, "a")
            assert "JOINFS_REDIS_CACERT" in refused(url.replace("127.0.0.1", "localhost"), StoreUnavailable)
            patch.setenv(name, "/none")
            assert f"{name} in the environment names /none" in refused(url, UsageError)
    assert "the URL begins with rediss:" in refused(url.replace("rediss", "redis"), StoreUnavailable)


def test_a_server_is_shown_a_certificate(new_redis, monkeypatch, tmp_path):
    server = new_redis(tls="both")
    monkeypatch.chdir(server.place)
    monkeypatch.setenv("JOINFS_REDIS_CACERT", "authority.pem")
    assert "JOINFS_REDIS_CERT" in refused(server.url("x"), StoreUnavailable)
    certificate, key = server.certificates.make("client", "client")
    monkeypatch.setenv("JOINFS_REDIS_CERT", certificate.name)
    monkeypatch.setenv("JOINFS_REDIS_KEY", "server.key")
    assert "JOINFS_REDIS_KEY" in refused(server.url("x"), StoreUnavailable)
    monkeypatch.setenv("JOINFS_REDIS_KEY", key.name)
    with RedisStore(server.url("x")) as store:
        set_data(store, "a")
        monkeypatch.chdir(tmp_path)  # as a mount does, for which the files are the same
        store._server._drop_idle()
        assert store.to_bytes("a") == b"x"


# ---------------------------------------------------------------- clusters

SLOTS = 1 << 14


def until(holds):
    """Wait for what nobody tells."""
    waiting = threading.Event()
    for _ in range(1000):
        if holds():
            return
        waiting.wait(0.02)
    pytest.fail("it does not come to be")


def ask(server, *command):
    return server.client.execute_command("CLUSTER", *command)


def cluster(new_redis, *parts):
    """Servers that each have the slots of a range, up to the last."""
    servers = [new_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port())) for _ in parts]
    for server, (first, last) in zip(servers, parts, strict=True):
        ask(server, "ADDSLOTSRANGE", first, last)
        if server is not servers[0]:
            ask(server, "MEET", "127.0.0.1", servers[0].port, servers[0].options[-1])
    for server in servers:
        until(lambda server=server: server.client.cluster("info")["cluster_state"] == "ok" and len(server.client.cluster("nodes")) == len(parts))
    return servers


def test_a_store_is_on_one_server_of_a_cluster(new_redis, caplog):
    one, two = cluster(new_redis, (0, SLOTS // 2 - 1), (SLOTS // 2, SLOTS - 1))
    url = one.url(next(prefix for prefix in "abcdef" if ask(one, "KEYSLOT", prefix) < SLOTS // 2))
    elsewhere = url.replace(str(one.port), str(two.port))
    assert f"name 127.0.0.1:{one.port}, which has" in refused(elsewhere, StoreUnavailable)
    assert "only the database 0" in refused(url.replace("/0/", "/1/"), StoreUnavailable)
    store = RedisStore(url)
    with store:
        told = Told(store)
        assert store.watch("")
        with RedisStore(url) as other:
            fill(other)
        assert told.until("d/a", "large", "x")
        move(store, one, two, ask(one, "KEYSLOT", url.rpartition("/")[2]))
    assert caplog.text.count(f"name 127.0.0.1:{two.port}, which has") == 1  # of a mount there is no other word
    with RedisStore(elsewhere) as store:
        assert (store.to_bytes("d/a"), len(store.to_bytes("large")), list(store.check())) == (b"1", 2 * CHUNK, [])


def move(store, one, two, slot):
    """Move the slot to the other server; meanwhile nothing is written by halves, and then it is said where it is."""
    store.patience = store._server._patience = 0.1
    ask(two, "SETSLOT", slot, "IMPORTING", ask(one, "MYID"))
    ask(one, "SETSLOT", slot, "MIGRATING", ask(two, "MYID"))
    with pytest.raises(StoreUnavailable, match="on the move"):
        set_data(store, "d/a", b"2")
    for key in ask(one, "GETKEYSINSLOT", slot, 1000):
        one.client.execute_command("MIGRATE", "127.0.0.1", two.port, key, 0, 10_000)
        with pytest.raises(StoreUnavailable, match="on the move"):
            set_data(store, "d/a", b"2")
    for server in (two, one):
        ask(server, "SETSLOT", slot, "NODE", ask(two, "MYID"))
    with pytest.raises(StoreUnavailable, match=f"name 127.0.0.1:{two.port}"):
        set_data(store, "d/a", b"2")
