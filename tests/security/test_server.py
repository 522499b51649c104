"""The server around the page: headers, closed routes, foreign origins, unknown messages, quotas, its end."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from browsing import ROOT, free_port, running_server
from PIL import Image
from sessions import Session, multipart, upload_headers
from starlette.exceptions import HTTPException
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from clipdemo.models.catalogue import EMBEDDED
from clipdemo.ui import quota
from clipdemo.ui.quota import Held, UploadQuota
from clipdemo.ui.server import MAX_FILE_URLS, KnownMessages

FRIEND, STRANGER = "https://friend.example", "https://stranger.example"


@pytest.fixture(scope="module")
def canary():
    """A proxy that takes connections and stays silent, as the internet is behind some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


@pytest.fixture(scope="module")
def address(tmp_path_factory, canary):
    proxy = f"http://127.0.0.1:{canary.getsockname()[1]}"
    settings = {
        "CLIPDEMO_CHECKPOINT": EMBEDDED,
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "NO_PROXY": "127.0.0.1",
        "STREAMLIT_SERVER_CORS_ALLOWED_ORIGINS": FRIEND,
    }
    with running_server(tmp_path_factory.mktemp("server") / "log", **settings) as (where, _):
        yield where


def run(coroutine):
    """Run it in a thread of its own: a browser of other tests may have an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


def get(address, path, method="GET", host=None):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    "path", ["/", "/audit", "/static/no.js", "/media/no", "/_stcore/health", "/_stcore/metrics", "//x"]
)
def test_every_answer_says_what_a_browser_must_refuse(address, path):
    headers = get(address, path).headers
    policy = dict(one.strip().partition(" ")[::2] for one in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert re.fullmatch(r"'self'( 'sha256-[\w+/=]+')+", policy["script-src"])
    assert policy["frame-ancestors"] == "'self' https://*.streamlit.app https://share.streamlit.io"
    assert not {source for one in policy.values() for source in one.split()} & {"*", "http:", "https:", "ws:"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "camera=(self)" in headers["Permissions-Policy"]


def test_a_hostile_host_header_adds_nothing_to_the_policy(address):
    for host in ("x;script-src", "x *", "friend.example, *", "[::1"):
        assert "connect-src 'self' data:;" in get(address, "/", host=host).headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics/", "/_stcore/metrics?families=x"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_the_figures_of_the_process_are_closed(address, path, method):
    assert get(address, path, method).status == 404


def opens(address, origin):
    stream = address.replace("http", "ws", 1) + "/_stcore/stream"
    try:
        with connect(stream, subprotocols=["streamlit"], origin=origin, open_timeout=60):
            return True
    except InvalidStatus as refused:
        return refused.response.status_code != 403


def test_a_foreign_origin_is_refused_without_asking_the_internet(address, canary):
    assert not opens(address, STRANGER)
    assert opens(address, FRIEND)
    assert opens(address, address)
    with pytest.raises(TimeoutError):
        canary.accept()


def picture():
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(out, "PNG")
    return out.getvalue()


def test_a_cleared_cache_takes_nothing_from_a_session(address):
    with Session(address, ["a red square", "a cat"], EMBEDDED) as session:
        next(session.grids(120))
        session.upload("Images or a zip", "mine.png", picture())
        session.wait_for(", 1 of your own", 120)
        session.send(BackMsg(clear_cache=True))
        session.send(BackMsg(load_git_info=True))
        session.write_captions(["a blue square", "a dog"])
        next(grid for grid in session.grids(120) if "a dog" in grid.rankings)
        session.wait_for(", 1 of your own", 120)
        assert not session.troubles


def known(*messages):
    """What the app receives of some messages, until the end of the connection."""
    received = []
    coming = [{"type": "websocket.receive", "bytes": one} for one in messages]
    coming.append({"type": "websocket.disconnect"})

    async def app(_scope, receive, _send):
        while (message := await receive())["type"] != "websocket.disconnect":
            received.append(message["bytes"])

    async def receive():
        return coming.pop(0)

    run(KnownMessages(app)({"type": "websocket"}, receive, None))
    return received


def test_only_messages_that_the_page_needs_arrive():
    stop = BackMsg(stop_script=True).SerializeToString()
    foreign = [BackMsg(**{kind: True}).SerializeToString() for kind in ("clear_cache", "load_git_info")]
    broken = b"\xff"  # ends the connection
    assert known(*foreign, stop, broken) == [stop, broken]
    many = BackMsg()
    many.file_urls_request.file_names.extend([""] * (MAX_FILE_URLS + 1))
    assert known(many.SerializeToString(), stop) == [stop]


@pytest.fixture
def upload(monkeypatch):
    """Sends chunks to a small quota; returns how many arrived, or raises what the quota did."""
    manager = MemoryUploadedFileManager("/_stcore/upload_file")
    monkeypatch.setattr(quota, "get_instance", lambda: type("Runtime", (), {"uploaded_file_mgr": manager}))
    monkeypatch.setattr(quota, "SESSION_BYTES", 1_000)
    monkeypatch.setattr(quota, "TOTAL_BYTES", 1_500)

    def send(session, *chunks):
        coming, arrived = [{"type": "http.request", "body": bytes(size)} for size in chunks], []

        async def app(_scope, receive, _send):
            while coming:
                arrived.append((await receive())["body"])
            name = str(len(manager.file_storage[session]))
            manager.add_file(session, UploadedFileRec(name, "a", "b", b"".join(arrived)))

        async def receive():
            return coming.pop(0)

        middleware = UploadQuota(app)
        scope = {"type": "http", "method": "PUT", "path": f"/base/_stcore/upload_file/{session}/file"}
        try:
            run(middleware(scope, receive, None))
        finally:
            assert not middleware._arriving
        return len(arrived)

    return send


def test_a_session_has_a_share_of_the_memory_for_uploads(upload):
    assert upload("one", 400, 400) == 2
    with pytest.raises(HTTPException, match="this session has 1 files"):
        upload("one", 100, 100, 100)
    assert upload("one", 100) == 1
    with pytest.raises(HTTPException, match="all visitors"):
        upload("two", 700)
    assert upload("two", 500) == 1


def test_files_that_the_app_took_over_count_until_they_are_read(upload):
    held = Held("one", 900)
    quota._held.add(held)
    with pytest.raises(HTTPException, match="this session"):
        upload("one", 200)
    held.nbytes = 0
    assert upload("one", 200) == 1


def test_scripts_take_files_over_while_the_server_counts(upload):
    """A set that grows while it is read would end the upload with an error of the server."""
    stop, failures = threading.Event(), []

    def script():
        try:
            while not stop.is_set():
                kept = [quota.hold(0) for _ in range(200)]
                del kept
        except RuntimeError as error:
            failures.append(error)

    others = [quota.hold(0) for _ in range(2_000)]  # so that a count takes a while
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=script) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        assert [upload(f"session {number}", 1) for number in range(30)] == [1] * 30
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not failures
    assert len(others) == 2_000


def test_a_session_has_a_limited_number_of_files(upload, monkeypatch):
    monkeypatch.setattr(quota, "SESSION_FILES", 3)
    assert [upload("one", 1) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(HTTPException, match="3 files"):
        upload("one", 1)


def test_an_unusable_setting_ends_the_start_with_one_sentence(monkeypatch):
    name, value = "CLIPDEMO_TYPED_CHECKPOINTS", "everything"
    monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.headless", "true"]
    command += ["--server.address", "127.0.0.1", "--server.port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"clipdemo cannot start: {name} is '{value}'; it must be .+\n", done.stderr)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs an alarm clock of the system")
def test_the_server_ends_soon_though_an_upload_stands_still_and_a_session_works(tmp_path):
    with (
        running_server(tmp_path / "log", CLIPDEMO_CHECKPOINT=EMBEDDED) as (address, process),
        Session(address, ["a cat"], EMBEDDED) as session,
    ):
        next(session.grids(120))
        body, kind = multipart("half.png", bytes(1_000_000))
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.putrequest("PUT", session.request_upload("half.png").upload_url)
        for header in (*upload_headers(address, kind).items(), ("Content-Length", str(len(body)))):
            connection.putheader(*header)
        connection.endheaders()
        connection.send(body[:500_000])
        session.open_page("audit")
        session.wait_for("swapped on purpose", 120)
        session.press("Try an example under Embedded model")
        process.terminate()
        process.wait(60)
        connection.close()
