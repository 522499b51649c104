"""Serves generated photographs on this machine, one URL and one table row per number."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from benchmarks.photographs import SMALL, caption, photograph
from clipdemo.images.connection import Network

HOST = "photographs.example"
_PUBLIC = "93.184.215.14"
_PHOTOGRAPHS = 32  # different pictures; bytes after a JPEG's end make the file of each URL unique


@dataclass(frozen=True)
class Pair:
    """A row of the table: the URL of an image, and its caption."""

    url: str
    caption: str


def pairs(count: int, first: int = 0) -> list[Pair]:
    """Return rows whose images and captions are all different, from number ``first`` on."""
    return [Pair(f"http://{HOST}/{n}.jpg", caption(n)) for n in range(first, first + count)]


def loopback(port: int, url: str) -> str:
    """Return the address at which this machine serves a URL."""
    return f"http://127.0.0.1:{port}{urlsplit(url).path}"


def network_to(port: int) -> Network:
    """Return a network that connects every host to the local server; the rest of the fetcher is real."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (_PUBLIC, 80))]
    return Network(
        resolve=lambda *_, **__: answer,
        connect=lambda _, seconds: socket.create_connection(("127.0.0.1", port), seconds),
    )


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = int(self.path.strip("/").removesuffix(".jpg"))
        body = photograph(number % _PHOTOGRAPHS, SMALL) + number.to_bytes(8, "big")
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Suppress the log line of each request."""


@contextmanager
def serving() -> Iterator[int]:
    """Run a server with its photographs generated in advance; yields the port."""
    for number in range(_PHOTOGRAPHS):
        photograph(number, SMALL)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
