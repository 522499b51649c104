"""A hub that lies: no internal address is reached, and nothing grows without end."""

import contextlib
import gzip
import json
import os
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from stand_in_hub import LISTING, Fault, StandInHub

from clipdemo.errors import (
    CheckpointError,
    CorruptCheckpointError,
    HubUnreachableError,
    UnsupportedCheckpointError,
)
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.hub import connection, listing, quota, transfer
from clipdemo.models.hub import snapshot as hub
from clipdemo.models.loader import Loader

NAME, WEIGHTS = "acme/tiny-clip", "model.safetensors"
FILES = {
    "config.json": b'{"model_type": "clip"}',
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b"{}",
    WEIGHTS: os.urandom(50_000),
}
COMMIT, SHA1 = "a" * 40, "b" * 40


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "repo"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.05)
    with StandInHub({NAME: folder}) as running:
        for key, value in {**running.environment(tmp_path / "home"), "HF_TOKEN": "hf_secret"}.items():
            monkeypatch.setenv(key, value)
        yield running


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "home" / "hub"


@pytest.fixture
def canary():
    """Address and requests of a server that must never be reached."""
    reached = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as internal:
        thread = threading.Thread(target=internal.serve_forever, args=(0.05,))
        thread.start()
        yield internal.server_address[1], reached
        internal.shutdown()
        thread.join()


INTERNAL = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"]


@pytest.mark.parametrize("host", INTERNAL)
@pytest.mark.parametrize("file", [LISTING, "config.json", WEIGHTS])
def test_a_redirect_to_another_internal_address_reaches_nothing(server, canary, host, file):
    port, reached = canary
    server.faults[file] = Fault(redirect=f"http://{host}:{port}/latest/meta-data")
    with pytest.raises(HubUnreachableError, match=r"not public|malformed"):
        hub.download(NAME)
    assert not reached


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest",
        "http://[64:ff9b::7f00:1]/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "//127.0.0.1:1/x",
        "http://[::1",
        "http://127.0.0.1:99999/",
    ],
)
def test_no_redirect_leads_out_of_the_public_internet(server, address):
    server.faults[WEIGHTS] = Fault(redirect=address)
    with pytest.raises(HubUnreachableError, match=r"not public|malformed"):
        hub.download(NAME)


@pytest.fixture
def names(monkeypatch):
    """A resolver: name -> its answers in turn, the last one for ever; names without an entry are unknown."""
    answers, asked, system = {}, [], socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        if host not in answers and host.endswith(".example"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        if host not in answers:
            return system(host, *args, **kwargs)
        asked.append(host)
        turn = answers[host]
        return [each for ip in (turn.pop(0) if turn[1:] else turn[0]) for each in system(ip, *args, **kwargs)]

    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.lower(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers, asked


def test_a_redirect_connects_to_the_address_that_was_checked(server, canary, names, monkeypatch):
    """A name server that answers differently a moment later reaches nothing inside."""
    answers, asked = names
    monkeypatch.setattr(connection, "is_public", lambda _: True)  # the stand-in plays the internet
    port = server.url.rpartition(":")[2]
    answers["cdn.example"] = [["127.0.0.3", "127.0.0.1"], ["127.0.0.9"]]  # the first takes no connection
    path = f"/{NAME}/resolve/{listing.ask_hub(NAME, 'main', with_token=False)[0]}/{WEIGHTS}"
    server.faults[WEIGHTS] = Fault(redirect=f"http://cdn.example:{port}{path}", times=1)
    assert (hub.download(NAME).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert asked == ["cdn.example"]


def test_a_redirect_to_a_name_that_does_not_resolve_is_refused_without_a_proxy(server, names, monkeypatch):
    server.faults[WEIGHTS] = Fault(redirect="http://unknown.example/x")
    with pytest.raises(HubUnreachableError, match="redirects to an unknown host"):
        hub.download(NAME)
    monkeypatch.setenv("HTTP_PROXY", server.url)  # which knows it, and answers
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert connection._public_addresses("http://unknown.example/x") == []


def test_redirects_without_end_are_refused(server):
    server.faults[LISTING] = Fault(redirect=f"{server.url}/api/models/{NAME}/revision/main")
    with pytest.raises(HubUnreachableError, match="redirects without end"):
        hub.download(NAME)
    assert server.count(LISTING) == connection.MAX_REDIRECTS + 1


def test_the_hosts_token_is_sent_for_its_own_checkpoints_only(server, cache):
    hub.download(NAME, typed=True)
    assert {request.token for request in server.requests} == {None}
    server.requests.clear()
    quota.shutil.rmtree(cache)
    hub.download(NAME)
    assert {request.token for request in server.requests} == {"Bearer hf_secret"}


def listed(*siblings, sha=COMMIT):
    return Fault(body=json.dumps({"sha": sha, "siblings": list(siblings)}).encode())


def sibling(name="config.json", size=10, blob=SHA1):
    return {"rfilename": name, "size": size, "blobId": blob}


OTHERS = [sibling(name) for name in FILES if name != "config.json"]


@pytest.mark.parametrize(
    "fault",
    [
        listed(sibling(size=-1), *OTHERS),
        listed(sibling(size=10**30), *OTHERS),
        listed(sibling(size="10"), *OTHERS),
        listed(sibling(size=True), *OTHERS),
        listed(sibling(blob="../../../../tmp/evil"), *OTHERS),
        listed(sibling(blob=["b" * 40]), *OTHERS),
        listed(sibling(name=5), *OTHERS),
        listed({}, *OTHERS),
        listed("x"),
        listed(sibling(), *OTHERS, sha="../../evil"),
        listed(sibling(), *OTHERS, sha=None),
        Fault(body=b"[]"),
        Fault(body=b"[" * 200_000),
        Fault(body=b'{"sha": ' + b"1" * 100_000),
        Fault(body=b"\xff\xfe"),
        Fault(body=gzip.compress(bytes(10**8)), headers={"Content-Encoding": "gzip"}),
    ],
    ids=str,
)
def test_a_malformed_listing_is_refused(server, cache, fault):
    server.faults[LISTING] = fault
    with pytest.raises(HubUnreachableError):
        hub.download(NAME)
    assert not list(cache.rglob("*")) if cache.exists() else True


def test_names_that_lead_elsewhere_are_left_out(server):
    names = (
        "..",
        ".",
        "../config.json",
        "/etc/passwd",
        "a/../../b",
        "config.json\n",
        "tokenizer\0.json",
        "..json",
    )
    server.faults[LISTING] = listed(*(sibling(name) for name in names))
    with pytest.raises(UnsupportedCheckpointError, match=r"lacks its config.json"):
        hub.download(NAME)


def test_an_enormous_listing_is_read_to_its_limit(server, monkeypatch):
    monkeypatch.setattr(listing, "MAX_LISTING_BYTES", 200_000)
    server.faults[LISTING] = Fault(body=b'{"siblings": [', endless="body")
    with pytest.raises(HubUnreachableError, match="too large"):
        hub.download(NAME)


def test_a_listing_that_drips_ends_in_time(server, monkeypatch):
    monkeypatch.setattr(listing, "LISTING_SECONDS", 0.3)
    server.faults[LISTING] = Fault(body=b" ", endless="body")
    with pytest.raises(HubUnreachableError, match="in time"):
        hub.download(NAME)


def test_a_listing_whose_headers_drip_ends_in_time(server, monkeypatch):
    """Each byte comes within the timeout of one read; the limit is on the whole."""
    monkeypatch.setattr(listing, "LISTING_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def drip():
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                with contextlib.suppress(OSError):
                    while not done.wait(0.05):
                        peer.sendall(b"a")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(HubUnreachableError, match="in time"):
            hub.download(NAME)
        done.set()
        thread.join()


@pytest.mark.parametrize("file", [LISTING, "config.json", WEIGHTS])
def test_endless_headers_are_refused(server, monkeypatch, file):
    monkeypatch.setattr(transfer, "MAX_CONNECTIONS", 2)
    server.faults[file] = Fault(endless="headers")
    with pytest.raises(HubUnreachableError):
        hub.download(NAME)


@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Length": "99999999999"}, {"Content-Encoding": "gzip"}],
    ids=["no length", "lying length", "compressed"],
)
def test_an_endless_body_is_read_to_the_listed_size(server, cache, file, headers):
    server.faults[file] = Fault(endless="body", headers=headers)
    with pytest.raises(CorruptCheckpointError, match="arrived broken"):
        hub.download(NAME)
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 10**6


def test_a_small_file_that_is_listed_as_large_is_refused(server):
    server.faults[LISTING] = listed(sibling(), *OTHERS, sibling("tokenizer_config.json", size=10**10))
    with pytest.raises(UnsupportedCheckpointError, match=r"tokenizer_config.json of .* 10.0 GB"):
        hub.download(NAME)


def test_a_configuration_beyond_the_bounds_ends_the_download_before_the_weights(server):
    (server.repos[NAME] / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 20000}}')
    with pytest.raises(UnsupportedCheckpointError, match="size"):
        hub.download(NAME)
    assert server.count(WEIGHTS) == 0


def test_a_typed_checkpoint_of_many_bytes_is_refused_before_its_download(server, monkeypatch):
    monkeypatch.setattr(quota, "MAX_CHECKPOINT_BYTES", 40_000)
    with pytest.raises(CheckpointError, match="a typed checkpoint may have"):
        hub.download(NAME, typed=True)
    assert server.count("config.json") == 0
    hub.download(NAME)  # the host may


def small_share(monkeypatch):
    """Room for two typed checkpoints, which are in use for no time."""
    monkeypatch.setattr(quota, "LEAST_BYTES", 1)
    monkeypatch.setattr(quota, "MAX_TOTAL_BYTES", 120_000)
    monkeypatch.setattr(quota, "KEEP_SECONDS", -1.0)


def test_typed_checkpoints_take_a_bounded_share_of_the_disk(server, monkeypatch):
    small_share(monkeypatch)
    folder = server.repos[NAME]
    server.repos |= {f"acme/typed-{number}": folder for number in range(3)}
    hub.download(NAME)  # the host's own stays, although it is the oldest
    for number in range(3):
        hub.download(f"acme/typed-{number}", typed=True)
        time.sleep(0.01)
    assert hub.find("acme/typed-0") is None
    assert hub.find("acme/typed-1")
    hub.note_use("acme/typed-1")
    hub.download("acme/typed-0", typed=True)
    assert hub.find("acme/typed-2") is None
    assert hub.find("acme/typed-1")
    assert hub.find(NAME)


def test_typed_checkpoints_in_use_are_kept(server, monkeypatch):
    small_share(monkeypatch)
    monkeypatch.setattr(quota, "KEEP_SECONDS", 3600.0)
    server.repos |= {f"acme/typed-{number}": server.repos[NAME] for number in range(3)}
    for number in range(2):
        hub.download(f"acme/typed-{number}", typed=True)
    with pytest.raises(CheckpointError, match="the others are in use; try later"):
        hub.download("acme/typed-2", typed=True)
    assert hub.find("acme/typed-0")


def unused_since(cache, name, seconds):
    mark = cache / ".clipdemo-typed" / f"models--{name.replace('/', '--')}"
    os.utime(mark, (time.time() - seconds,) * 2)


def test_a_long_download_of_a_typed_checkpoint_counts_as_use(server, cache):
    server.faults[WEIGHTS] = Fault(bytes_per_second=100_000)
    mark, ages = cache / ".clipdemo-typed" / "models--acme--tiny-clip", []

    def note(_progress):
        ages.append(time.time() - mark.stat().st_mtime)
        unused_since(cache, NAME, 7200)  # as if the next bytes took two hours

    hub.download(NAME, typed=True, on_progress=note)
    assert len(ages) > 2
    assert max(ages) < 3600


def test_a_checkpoint_that_a_session_uses_is_kept(server, cache, monkeypatch):
    small_share(monkeypatch)
    monkeypatch.setattr(quota, "KEEP_SECONDS", 3600.0)
    monkeypatch.setattr(quota, "MAX_TOTAL_BYTES", 60_000)
    server.repos["acme/other"] = server.repos[NAME]
    hub.download(NAME, typed=True)
    unused_since(cache, NAME, 7200)
    Loader(EmbeddingStore(1_000), offered=[]).use(NAME, threading.current_thread())
    with pytest.raises(CheckpointError, match="the others are in use"):
        hub.download("acme/other", typed=True)
    unused_since(cache, NAME, 7200)
    hub.download("acme/other", typed=True)
    assert hub.find(NAME) is None


def test_what_an_interrupted_removal_leaves_still_counts_and_is_removed_next_time(server, cache, monkeypatch):
    small_share(monkeypatch)
    monkeypatch.setattr(quota, "MAX_TOTAL_BYTES", 60_000)
    server.repos["acme/other"] = server.repos[NAME]
    first = hub.download(NAME, typed=True)
    repo = first.folder.parent.parent

    rmtree = shutil.rmtree

    def killed(folder, **_):
        for file in folder.iterdir():
            if file.name != "blobs":
                rmtree(file)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quota.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            hub.download("acme/other", typed=True)
    assert list((repo / "blobs").iterdir())
    hub.download("acme/other", typed=True)
    assert not repo.exists()


def test_the_same_typed_checkpoint_again_needs_no_further_room(server, monkeypatch):
    small_share(monkeypatch)
    monkeypatch.setattr(quota, "MAX_TOTAL_BYTES", 60_000)
    first = hub.download(NAME, typed=True)
    (first.folder / "tokenizer.json").unlink()
    assert hub.download(NAME, typed=True) == hub.find(NAME)
