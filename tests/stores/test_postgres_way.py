"""Getting to a server that has passwords, TLS, rights, a pooler before it or a standby behind it. SEMANTICS.md, Getting to a PostgreSQL server."""

import io
import logging
import os
import shutil
import subprocess
import sys
import threading

import pytest

from joinfs.errors import AccessDenied, JoinfsError, ReadOnly, StoreUnavailable, UsageError
from joinfs.stores import open_store
from joinfs.stores.postgres import PostgresStore
from joinfs.stores.postgres_functions import CHUNK
from tests.conftest import lacking
from tests.stores.postgres_servers import DATABASE, USER, Pooler, Relay, Server
from tests.stores.test_postgres_gone import writes
from tests.stores.test_watching import Told, set_data


def url_of(server, user, **options):
    options = {"schema": server.new_schema(), **options}
    return f"postgres://{user}@127.0.0.1:{server.port}/{DATABASE}?" + "&".join(f"{name}={value}" for name, value in options.items())


def refused(url, error):
    """What is said to who cannot open it: one sentence, of one line, in which there is no password."""
    with pytest.raises(JoinfsError) as told:
        open_store(url)
    text = str(told.value)
    assert (type(told.value), text.count("\n"), "s3cret" in text) == (error, 0, False)
    return text


# ---------------------------------------------------------------- passwords


@pytest.mark.parametrize("where", ["PGPASSWORD", "password file", "service", "service of the URL", "credentials"])
def test_a_password_comes_from_where_libpq_has_it(guarded_postgres, where, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    password, url = guarded_postgres.password("secret"), url_of(guarded_postgres, "secret")
    if where == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", password)
    elif where == "password file":
        (tmp_path / "pgpass").write_text(f"127.0.0.1:{guarded_postgres.port}:{DATABASE}:secret:{password}\n")
        (tmp_path / "pgpass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    elif where.startswith("service"):
        (tmp_path / "services").write_text(f"[team]\nhost=127.0.0.1\nport={guarded_postgres.port}\nuser=secret\npassword={password}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        if where == "service":
            monkeypatch.setenv("PGSERVICE", "team")
        url = f"postgres:///{DATABASE}?schema={guarded_postgres.new_schema()}" + "&service=team" * (where != "service")
    store = open_store(url, connect=False)
    store.connect(password if where == "credentials" else None)
    with store:
        set_data(store, "a")
        assert store.to_bytes("a") == b"x"
        assert password not in f"{store.name}{store.info()}{caplog.text}"


def test_a_wrong_password_is_said_and_so_is_none(guarded_postgres, monkeypatch):
    url = url_of(guarded_postgres, "secret")
    assert "wants a password, which libpq takes from PGPASSWORD" in refused(url, AccessDenied)
    monkeypatch.setenv("PGPASSWORD", "wrong s3cret")
    text = refused(url, AccessDenied)
    assert "does not take this user with this password" in text
    assert text.count("authentication failed") == 1
    monkeypatch.setenv("PGSERVICE", "none")
    assert "makes no sense" in refused(url, StoreUnavailable)


def test_a_password_that_is_changed_meanwhile_is_said_once_in_the_log(guarded_postgres, monkeypatch, caplog):
    monkeypatch.setenv("PGPASSWORD", guarded_postgres.password("secret"))
    caplog.set_level(logging.INFO)
    with open_store(url_of(guarded_postgres, "secret")) as store:
        for password in ("another", guarded_postgres.password("secret")):
            with guarded_postgres.connect() as connection:
                connection.execute(f"ALTER ROLE secret PASSWORD '{password}'")
            store._connections._close_idle()
            if password == "another":
                for _ in range(3):
                    with pytest.raises(AccessDenied):
                        store.stat("")
        assert store.stat("").is_directory
    said, again = [record.getMessage() for record in caplog.records if record.name == "joinfs.stores.troubles"]
    assert "does not take this user with this password" in said
    assert "answers again" in again


def test_the_command_says_it_in_one_line(guarded_postgres, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "wrong s3cret")
    command = [sys.executable, "-m", "joinfs", "ls", url_of(guarded_postgres, "secret")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "does not take this user with this password" in done.stderr
    assert "s3cret" not in done.stderr


# ---------------------------------------------------------------- TLS


def is_encrypted(store):
    return store._connections.ask("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")[0]


def test_who_the_server_is_is_looked_at_if_that_is_asked_for(guarded_postgres, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", guarded_postgres.password("encrypted"))
    url, authority = url_of(guarded_postgres, "encrypted"), guarded_postgres.certificates.authority
    for more in ("", "&sslmode=require", f"&sslmode=verify-full&sslrootcert={authority}"):
        with open_store(url + more) as store:
            assert is_encrypted(store)
    monkeypatch.setenv("PGSSLROOTCERT", str(authority))
    with open_store(f"{url}&sslmode=verify-full") as store:
        assert is_encrypted(store)
    assert "no encryption" in refused(f"{url}&sslmode=disable", AccessDenied)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    for host, root in (("localhost", authority), ("127.0.0.1", guarded_postgres.place / "server.pem"), ("127.0.0.1", "/none")):
        text = refused(f"{url.replace('127.0.0.1', host)}&sslrootcert={root}", StoreUnavailable)
        assert "is not known to be the one that is meant" in text
    assert "invalid sslmode" in refused(f"{url}&sslmode=some", StoreUnavailable)


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(postgres):
    assert "speaks no TLS" in refused(url_of(postgres, USER, sslmode="require"), StoreUnavailable)


def test_who_has_a_certificate_needs_no_password(guarded_postgres, monkeypatch):
    url = url_of(guarded_postgres, "certified")
    assert "wants a certificate of ours" in refused(url, AccessDenied)
    certificate, key = guarded_postgres.certificates.make("client", "certified")
    monkeypatch.setenv("PGSSLCERT", str(certificate))
    monkeypatch.setenv("PGSSLKEY", "/none")
    assert "cannot be shown" in refused(url, AccessDenied)
    monkeypatch.setenv("PGSSLKEY", str(key))
    with open_store(url) as store:
        set_data(store, "a")


def test_files_are_found_again_from_another_directory(guarded_postgres, monkeypatch, tmp_path):
    """As of a mount, which leaves the directory that it was begun in."""
    monkeypatch.setenv("PGPASSWORD", guarded_postgres.password("encrypted"))
    monkeypatch.setenv("PGSSLROOTCERT", guarded_postgres.certificates.authority.name)
    monkeypatch.chdir(guarded_postgres.place)
    with open_store(url_of(guarded_postgres, "encrypted", sslmode="verify-full")) as store:
        monkeypatch.chdir(tmp_path)
        store._connections._close_idle()
        assert store.stat("").is_directory


# ---------------------------------------------------------------- rights


@pytest.fixture
def made(postgres):
    """The schema of a store that somebody else has made, and who it is for."""
    schema = postgres.new_schema()
    with PostgresStore(postgres.url(), schema=schema) as store:
        set_data(store, "a", bytes(3 * CHUNK))
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE user_{schema} LOGIN")
    return schema, f"user_{schema}"


def test_who_may_make_nothing_is_told_what_to_have_done(postgres, made):
    schema, user = made
    for name in (schema, postgres.new_schema()):
        text = refused(url_of(postgres, user, schema=name), AccessDenied)
        assert text.count("permission denied") == 1
        with postgres.connect() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}; {text.partition('then does ')[2]}")
    with open_store(url_of(postgres, user, schema=schema)) as store:
        for write in writes(store).values():
            set_data(store, "a", b"old")
            set_data(store, "large", bytes(5 * CHUNK))
            write()
        store.rename("a", "b")
        store.delete("b")
        assert list(store.check()) == []


def test_who_may_write_to_some_tables_is_told_what_is_lacking(postgres, made):
    schema, user = made
    for step, lacking_then in (
        (f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA {schema} TO {user}", "DELETE on chunk"),
        (f"GRANT UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}", "USAGE on content_id"),
    ):
        with postgres.connect() as connection:
            connection.execute(step)
        assert f"{lacking_then} is lacking" in refused(url_of(postgres, user, schema=schema), AccessDenied)
        with open_store(url_of(postgres, user, schema=schema), read_only=True) as store:
            assert len(store.to_bytes("a")) == 3 * CHUNK


def test_a_user_for_whom_the_server_is_read_only_reads(postgres, made):
    schema, user = made
    with postgres.connect() as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {user}")
        connection.execute(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    with open_store(url_of(postgres, user, schema=schema)) as store, PostgresStore(postgres.url(), schema=schema) as other:
        assert len(store.to_bytes("a")) == 3 * CHUNK
        with pytest.raises(ReadOnly):
            set_data(store, "a")
        told = Told(store)
        assert store.watch("")
        set_data(other, "b")
        assert told.until("b")


def test_what_other_users_have_under_way_is_not_taken_for_ended(postgres, made):
    schema, user = made
    with PostgresStore(postgres.url(), schema=schema) as store, postgres.connect() as connection:
        set_data(store, "a")
        connection.execute(f"UPDATE {schema}.session SET started = started - interval '2 days'")
        connection.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {user}; GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {user}"
        )
        with open_store(url_of(postgres, user, schema=schema)):
            assert connection.execute(f"SELECT count(*) FROM {schema}.session").fetchone() == (1,)
        with PostgresStore(postgres.url(), schema=schema):  # who sees when that process began
            assert connection.execute(f"SELECT count(*) FROM {schema}.session").fetchone() == (0,)


# ---------------------------------------------------------------- poolers


@pytest.fixture
def pooled(postgres, monkeypatch):
    """Call for a pooler before the server, by its mode."""
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")  # where it is, and where users do not look
    if shutil.which("pgbouncer") is None:
        lacking("pgbouncer")
    poolers = []

    def begin(mode):
        poolers.append(Pooler(postgres, mode))
        return poolers[-1]

    yield begin
    for pooler in poolers:
        pooler.stop()


def test_before_a_pooler_that_keeps_sessions_all_is_as_before_the_server(postgres, pooled):
    schema, relay = postgres.new_schema(), Relay(pooled("session").port)
    store, other = PostgresStore(postgres.url(relay.port), schema=schema), PostgresStore(postgres.url(), schema=schema)
    store.timeout = 5.0
    try:
        with store, other:
            told = Told(store)
            assert store.watch("")
            set_data(store, "a", b"old")
            set_data(store, "large", os.urandom(20 * CHUNK))
            set_data(other, "b", b"new")
            assert "b" in told.until("b")
            for _ in range(10):  # psycopg prepares a statement when it has been used for some times
                for write in writes(store).values():
                    write()
            settings = store._connections.ask_all("SELECT setting FROM pg_settings WHERE name IN ('lock_timeout', 'synchronous_commit') ORDER BY name")
            assert settings == [("4000",), ("on",)]
            for cut in ("question", "answer"):
                relay.swallow(cut)
                set_data(store, f"cut {cut}", b"1")
                assert other.to_bytes(f"cut {cut}") == b"1"
            with store.get("large").data as stream:
                set_data(other, "large", b"")
                assert len(stream.read()) == 3 * CHUNK
            assert list(store.check()) == []
    finally:
        relay.close()


def test_nothing_that_was_set_is_left_to_others_by_a_pooler(postgres, pooled):
    import psycopg

    pooler = pooled("session")
    with PostgresStore(postgres.url(pooler.port), schema=postgres.new_schema()) as store:
        set_data(store, "a")
    with psycopg.connect(host="127.0.0.1", port=pooler.port, user=USER, dbname=DATABASE) as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_a_pooler_that_keeps_no_sessions_is_refused_and_left_as_it_was(postgres, pooled, monkeypatch):
    import psycopg

    from joinfs.stores import postgres_way

    monkeypatch.setattr(postgres_way, "PATIENCE", 0.5)
    pooler, schema = pooled("transaction"), postgres.new_schema()
    for read_only in (False, True):
        with pytest.raises(UsageError, match="pool_mode=session"):
            PostgresStore(postgres.url(pooler.port), schema=schema, read_only=read_only).connect()
    with psycopg.connect(host="127.0.0.1", port=pooler.port, user=USER, dbname=DATABASE) as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() == (0,)


# ---------------------------------------------------------------- standbys


def test_a_standby_is_read(guarded_postgres, pooled):
    schema, applied = guarded_postgres.new_schema(), threading.Event()
    with PostgresStore(guarded_postgres.url(), schema=schema) as store:
        store.set("a", (io.BytesIO(os.urandom(5 * CHUNK)), {"n": 1}))
        standby = Server(of=guarded_postgres)
        try:
            with PostgresStore(standby.url(), schema=schema) as second:
                assert not second.capabilities.writable
                assert second.to_bytes("a") == store.to_bytes("a")
                assert (list(second.query_keys(n=1)), second.watch(""), list(second.check())) == (["a"], False, [])
                with pytest.raises(ReadOnly):
                    set_data(second, "b")
                set_data(store, "b")
                with guarded_postgres.connect() as primary, standby.connect() as replayed:
                    (position,) = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
                    while not replayed.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)).fetchone()[0]:
                        applied.wait(0.02)
                assert second.to_bytes("b") == b"x"
            with pytest.raises(StoreUnavailable, match="no store in the schema"):
                PostgresStore(standby.url(), schema=guarded_postgres.new_schema()).connect()
            with pytest.raises(UsageError, match="name the server itself"):
                pooler = Pooler(standby, "session")
                try:
                    PostgresStore(standby.url(pooler.port), schema=schema).connect()
                finally:
                    pooler.stop()
        finally:
            standby.stop()
