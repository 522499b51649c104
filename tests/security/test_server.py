"""The server around the page: headers, closed routes, foreign origins, unknown messages, quotas, its end."""

from __future__ import annotations

import http.client
import socket

import pytest
from browsing import running_server
from sessions import Session, multipart, upload_headers

from clipdemo.models.catalogue import EMBEDDED

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
