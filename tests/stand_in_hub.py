"""A loopback HTTP server with the part of the hub's protocol that the client needs, and faults on demand.

It serves the listing, ``HEAD`` and ``GET`` of files by branch or commit, ranges, and the redirect of large
files to another address. It runs in the test's process, so an app started as a subprocess with
``hub.environment(home)`` uses it too, and faults set in a test take effect there at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import unquote, urlsplit

from clipdemo.models.catalogue import CATALOGUE

LISTING = "(listing)"  # stands for the listing in ``faults`` and ``count``
LARGE = (".safetensors", ".bin")  # in LFS on the hub: named by SHA-256, served from another address
PIECE = 16_384


@dataclass
class Fault:
    """A fault of one file, or of the listing.

    Attributes:
        drop_after: close the connection after this many bytes of an answer.
        reset: close it with a TCP reset, as middleboxes do.
        stall_after: stop sending after this many bytes, and keep the connection open.
        corrupt: flip the bits of the first bytes; the length stays.
        status: answer with this status instead.
        error_code: the ``X-Error-Code`` of that answer, such as ``GatedRepo``.
        bytes_per_second: the speed of the answer.
        redirect: answer with a redirect to this address instead.
        body: answer with this body instead, and with whatever ``headers`` say about it.
        headers: in addition to the usual ones, or in their place.
        endless: repeat the body, or the headers, until the client hangs up.
        times: number of answers with the fault; None means all.
    """

    drop_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    corrupt: bool = False
    status: int | None = None
    error_code: str | None = None
    bytes_per_second: float | None = None
    redirect: str | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    endless: Literal["", "body", "headers"] = ""
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """One received request: the start of its range, and its token; each None if there is none."""

    method: str
    repo: str
    file: str
    start: int | None
    token: str | None = None


class StandInHub:
    """Serves folders as hub repositories; use it as a context manager.

    Attributes:
        repos: repository id -> folder; may be changed at any time.
        gated: ids whose files need an account.
        faults: file name, or ``LISTING`` -> its fault, in every repository.
        requests: all received requests, in order.
    """

    def __init__(self, repos: Mapping[str, Path]) -> None:
        self.repos = dict(repos)
        self.gated: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that make a process use this hub and a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_TOKEN": ""}

    def count(self, file: str, *, method: str = "GET", ranged: bool | None = None) -> int:
        """The number of requests for a file; ``ranged`` counts only requests with, or without, a range."""
        with self._lock:
            matching = [each for each in self.requests if (each.file, each.method) == (file, method)]
        return sum(ranged is None or ranged == (each.start is not None) for each in matching)

    def commit(self, repo: str) -> str:
        """The commit of a repository: the catalogue's, or one that changes with the files."""
        if repo in CATALOGUE and CATALOGUE[repo].revision:
            return CATALOGUE[repo].revision
        listed = [(name, digest(path)) for name, path in self.files(repo).items()]
        return hashlib.sha1(repr(listed).encode()).hexdigest()

    def files(self, repo: str) -> dict[str, Path]:
        """The files of a repository by their path in it."""
        folder = self.repos[repo]
        return {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }

    def note(self, request: Request) -> Fault:
        """Record a request and return the fault that applies to it."""
        with self._lock:
            self.requests.append(request)
            fault = self.faults.get(request.file, Fault())
            if request.method == "HEAD" or fault.times == 0:
                return Fault()
            if fault.times is not None:
                fault.times -= 1
            return fault

    def __enter__(self) -> StandInHub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def digest(path: Path) -> str:
    """SHA-256 of a large file, git's blob name of a small one; as on the hub."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _digest(path: Path, _size: int, _changed: int) -> str:
    content = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a stalled answer waits for ``closing``, a kept-alive one for its client

    def __init__(self, hub: StandInHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when a client disconnects."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if listing := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/revision/(.+)", path):
            self._list(listing[1], listing[2])
        elif listing := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)", path):
            self._list(listing[1], "main")
        elif file := re.fullmatch(r"(/lfs)?/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", path):
            self._resolve(file[2], file[3], file[4], redirected=bool(file[1]))
        else:
            self._refuse(404)

    def _list(self, repo: str, revision: str) -> None:
        fault = self.server.hub.note(
            Request(self.command, repo, LISTING, None, self.headers.get("Authorization"))
        )
        if self._known(repo, revision, fault):
            siblings = []
            for name, path in self.server.hub.files(repo).items():
                size = path.stat().st_size
                lfs = {"sha256": digest(path), "size": size, "pointerSize": 134}
                blob = {"blobId": "0" * 40, "lfs": lfs} if path.suffix in LARGE else {"blobId": digest(path)}
                siblings.append({"rfilename": name, "size": size, **blob})
            commit = self.server.hub.commit(repo)
            answer = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, fault)

    def _resolve(self, repo: str, revision: str, file: str, *, redirected: bool) -> None:
        hub = self.server.hub
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        moved = file.endswith(LARGE) and not redirected
        token = self.headers.get("Authorization")
        request = Request(self.command, repo, file, int(start[1]) if start else None, token)
        fault = Fault() if moved else hub.note(request)  # a redirect and its target count as one request
        if not self._known(repo, revision, fault):
            return
        if repo in hub.gated:
            self._refuse(401, "GatedRepo")
        elif file not in hub.files(repo):
            self._refuse(404, "EntryNotFound")
        else:
            path = hub.files(repo)[file]
            headers = {
                "X-Repo-Commit": hub.commit(repo),
                "ETag": f'"{digest(path)}"',
                "Accept-Ranges": "bytes",
            }
            if file.endswith(LARGE):
                size = str(path.stat().st_size)
                headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": size}
            if moved:
                self._send(302, b"", headers | {"Location": f"{hub.url}/lfs{self.path}"}, fault)
            else:
                self._send_file(path.read_bytes(), request.start, headers, fault)

    def _send_file(self, content: bytes, start: int | None, headers: dict[str, str], fault: Fault) -> None:
        if fault.corrupt:
            content = bytes(byte ^ 0xFF for byte in content[:100]) + content[100:]
        if start is None:
            self._send(200, content, headers, fault)
        elif start >= len(content):
            self._refuse(416)
        else:
            span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._send(206, content[start:], headers | span, fault)

    def _known(self, repo: str, revision: str, fault: Fault) -> bool:
        hub = self.server.hub
        if fault.status is not None:
            self._refuse(fault.status, fault.error_code)
        elif fault.redirect is not None:
            self._send(302, b"", {"Location": fault.redirect}, Fault())
        elif fault.body is not None or fault.endless:
            self._misbehave(fault)
        elif repo not in hub.repos:
            self._refuse(
                401, "RepoNotFound"
            )  # without an account, the hub does not distinguish private from missing
        elif revision not in ("main", hub.commit(repo)):
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _misbehave(self, fault: Fault) -> None:
        body = fault.body or b" " * PIECE
        self.close_connection = True
        with suppress(OSError):  # the client hangs up
            self.send_response(200)
            while fault.endless == "headers" and not self.server.hub.closing.is_set():
                self.send_header("X-More", "x" * 1_000)
                self.flush_headers()
            for key, value in {"Content-Type": "application/json", **fault.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)
            while fault.endless == "body" and not self.server.hub.closing.is_set():
                self.wfile.write(body)

    def _refuse(self, status: int, error_code: str | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": error_code} if error_code else {}, Fault())

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limits = [limit for limit in (fault.drop_after, fault.stall_after) if limit is not None]
        body = body[: min(limits, default=len(body))]
        for at in range(0, len(body), PIECE):
            self.wfile.write(body[at : at + PIECE])
            if fault.bytes_per_second:
                time.sleep(min(PIECE, len(body) - at) / fault.bytes_per_second)
        if fault.stall_after is not None:
            self.server.hub.closing.wait()
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        self.close_connection = bool(limits)
