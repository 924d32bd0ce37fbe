"""Containers of Azure's Blob Storage, on Azurite. SEMANTICS.md, Containers of Azure."""

import io
import os

import pytest

import joinfs
from joinfs.errors import AccessDenied, KeyExists, StoreUnavailable, UsageError
from joinfs.stores.azure import AzureStore
from joinfs.stores.object_bucket import PART
from joinfs.stores.value import new_stat
from joinfs.testing import ReadOnlyContract, StoreContract
from tests.stores.azure_servers import ACCOUNT, KEY


class TestAzurite(StoreContract):
    scheme = "az"

    @pytest.fixture(autouse=True)
    def served(self, azurite):
        self.server = azurite

    def make_store(self, place):
        self.container = self.server.new_container()
        return AzureStore(f"//{self.container}/p", endpoint=self.server.endpoint)

    def raw(self, place, key):
        return self.server.service.get_blob_client(self.container, "p/" + key).download_blob().readall()

    def seed(self, place, key, content):
        self.server.put(self.container, "p/" + key, content, overwrite=True)
        return True


class TestReadOnly(ReadOnlyContract):
    """A container that others filled, without markers or attributes."""

    @pytest.fixture(autouse=True)
    def served(self, azurite):
        self.server = azurite

    def make_filled(self, place):
        container = self.server.new_container()
        for key, content in self.CONTENTS.items():
            self.server.put(container, key, content)
        return AzureStore(f"//{container}", endpoint=self.server.endpoint, read_only=True)


@pytest.fixture
def container(azurite):
    return azurite.new_container()


@pytest.fixture
def store(azurite, container):
    with AzureStore(f"//{container}", endpoint=azurite.endpoint) as store:
        yield store


@pytest.fixture
def blob(azurite, container):
    """A blob of the container, looked at without the store."""
    return lambda name: azurite.service.get_blob_client(container, name)


def data(content):
    return io.BytesIO(content)


def asked(monkeypatch):
    """What is asked of Azure from now on."""
    from azure.core.pipeline.transport import RequestsTransport

    requests, send = [], RequestsTransport.send

    def noted(self, request, **given):
        requests.append(request.method)
        return send(self, request, **given)

    monkeypatch.setattr(RequestsTransport, "send", noted)
    return requests


def test_the_server_honours_conditions(store):
    assert store.info()["conditions"] == {"create": True, "replace": True, "copy": True}


def test_metadata_stands_under_names_that_azure_takes(store, blob):
    metadata = {"plain": "text", "with-hyphens-in": "it", "9lives": "1", "Odd name": {"deep": ["é", None]}}
    store.set("a", (data(b"content"), metadata))
    said = blob("a").get_blob_properties().metadata
    assert (said["plain"], said["with_hyphens_in"], said["_9lives"], said["mode"]) == ("text", "it", "1", "0100644")
    assert store.get_metadata("a") == metadata


def test_what_others_wrote_is_shown(store, blob):
    blob("d/f").upload_blob(b"theirs", metadata={"Mode": "33188", "mtime": "1600000000.5", "their_name": "theirs"})
    blob("odd//name").upload_blob(b"odd")
    assert store.get_metadata("d/f") == {"their-name": "theirs"}
    assert (store.stat("d/f").mode, store.stat("d/f").mtime) == (0o100644, 1_600_000_000_500_000_000)
    assert sorted(name for name, _ in store.list("")) == ["d", "odd"]
    (odd,) = (name for name, _ in store.list("odd/"))
    assert [store.to_bytes(f"odd/{odd}/{name}") for name, _ in store.list(f"odd/{odd}/")] == [b"odd"]


@pytest.mark.parametrize("key", ["a b", "ü", "x\\y", "n\nl", "q?#%25", "a.", "+", "a'b\"c", "e\udcffe", "x" * 250, "[1]{}|^~`&"])
def test_names_of_every_kind(key, store):
    store.set("d/" + key, (data(b"content"), {}))
    store.rename("d/" + key, "e/" + key)
    assert [name for name, _ in store.list("e/")] == [key]
    assert store.to_bytes("e/" + key) == b"content"
    store.delete("e/" + key)
    assert [*store.list("e/")] == [*store.list("d/")] == []


def test_a_listing_tells_all_there_is_to_know(azurite, container, monkeypatch):
    for number in range(50):
        azurite.put(container, f"d/{number}", b"x" * number, metadata={"mode": "0100600", "uid": "7"})
    with AzureStore(f"//{container}", endpoint=azurite.endpoint) as store:
        requests = asked(monkeypatch)
        stats = dict(store.list("d/"))
        assert requests == ["GET"]
    assert {name: (stat.size, stat.mode, stat.uid) for name, stat in stats.items()} == {str(n): (n, 0o100600, 7) for n in range(50)}


def test_attributes_are_changed_in_place(store, blob, monkeypatch):
    store.set("a", (data(b"content"), {"k": "v"}))
    made = blob("a").get_blob_properties().creation_time
    requests = asked(monkeypatch)
    store.set_stat("a", mode=0o600)
    assert requests == ["PUT"]
    assert blob("a").get_blob_properties().creation_time == made
    assert (store.stat("a").mode, store.get_metadata("a"), store.to_bytes("a")) == (0o100600, {"k": "v"}, b"content")


def test_attributes_are_not_given_to_what_others_have_put_there(store, blob):
    store.set("a", (data(b"old"), {"of": "the old"}))
    blob("a").upload_blob(b"another's", overwrite=True, metadata={"of": "another"})
    store.set_stat("a", mode=0o600)
    assert (store.stat("a").mode, store.get_metadata("a"), store.to_bytes("a")) == (0o100600, {"of": "another"}, b"another's")


def test_of_two_who_make_one_value_one_is_told(azurite, container, store):
    with AzureStore(f"//{container}", endpoint=azurite.endpoint) as other:
        assert not store.exists("a")
        assert not other.exists("a")
        store.make("a", new_stat(0o100644))
        with pytest.raises(KeyExists):
            other.make("a", new_stat(0o100644))


def test_large_data_goes_in_parts_and_is_seen_whole(store, blob):
    content = os.urandom(2 * PART + 5)
    store.set("large", (data(content), {"k": "v"}))
    assert blob("large").download_blob().readall() == content
    assert (store.stat("large").size, store.to_bytes("large")) == (len(content), content)
    assert store.read("large", PART - 3, 10) == content[PART - 3 : PART + 7]
    assert store.read("large", len(content) - 2, 10) == content[-2:]
    assert store.read("large", len(content) + 2, 10) == b""


class Broken(io.RawIOBase):
    """Data that breaks off after more than a part."""

    left = 2 * PART

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.left <= 0:
            raise OSError("it breaks off")
        self.left -= len(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_data_that_breaks_off_leaves_the_old(store, blob):
    store.set("a", (data(b"old"), {}))
    with pytest.raises(OSError, match="it breaks off"):
        store.set("a", (Broken(), {}))
    assert (store.to_bytes("a"), blob("a").download_blob().readall()) == (b"old", b"old")


def test_a_directory_is_renamed_by_the_server_and_deleted_at_once(store, azurite, container, monkeypatch):
    for number in range(300):
        azurite.put(container, f"d/{number}", b"%d" % number, metadata={"k": "v"})
    requests = asked(monkeypatch)
    store.rename("d/", "e/")
    assert "DELETE" not in requests
    assert requests.count("POST") == 2
    assert not store.exists("d/")
    assert {name: store.to_bytes("e/" + name) for name, _ in store.list("e/")} == {str(n): b"%d" % n for n in range(300)}
    assert store.get_metadata("e/7") == {"k": "v"}


@pytest.mark.parametrize(
    ("url", "given", "credentials", "error", "words"),
    [
        ("//missing-one", {}, None, StoreUnavailable, "there is no container missing-one"),
        ("//here", {}, "bm9rZXk=", AccessDenied, "answers AuthorizationFailure"),
        ("//here", {}, "no key!", AccessDenied, "cannot be asked with these credentials"),
        ("//here", {"endpoint": "http://127.0.0.1:1/x"}, None, StoreUnavailable, "cannot be reached"),
        ("//No_Name", {}, None, UsageError, "is no container of Azure's"),
        ("//here", {"endpoint": "", "account": "no/name"}, None, UsageError, "is no account of Azure's"),
        ("//key@here", {}, None, UsageError, "no credentials in it"),
        ("//", {}, None, UsageError, "az://BUCKET/PREFIX"),
    ],
)
def test_what_cannot_be_connected_is_told_in_a_sentence(url, given, credentials, error, words, azurite):
    with pytest.raises(error, match=words):
        AzureStore(url, **{"endpoint": azurite.endpoint, **given}).connect(credentials)


def test_credentials_come_from_the_usual_places(azurite, container, monkeypatch):
    text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azurite.endpoint};"
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="say which account"):
        AzureStore(f"//{container}").connect()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with joinfs.open_store(f"az://{container}") as store:
        assert [*store.list("")] == []
        assert KEY not in store.identity + store.name + repr(store.info())
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "nonsense")
    with pytest.raises(UsageError, match="cannot be asked for"):
        AzureStore(f"//{container}").connect()
