"""A small web server on 127.0.0.1; each route shows one kind of good or bad behaviour."""

from __future__ import annotations

import gzip
import io
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

BOMB_BYTES = 64_000_000

# For https://pictures.test; made for these tests, trusted nowhere else, valid until 2124.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgox+nkG8IpMMrkF2K
dpLjtMNpna31urA30NSrMJIISRShRANCAARsC08znJatbpAtNI+dtLmMiqPA9csj
v4pAX5hV1Ho/PHk75l9yyMIvOf6MpHlOHVrvQ6lcjUOOzoOUH1sBwH0B
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBlDCCATqgAwIBAgIBATAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA5jbGlwZGVt
byB0ZXN0czAgFw0yNDAxMDEwMDAwMDBaGA8yMTI0MDEwMTAwMDAwMFowGTEXMBUG
A1UEAwwOY2xpcGRlbW8gdGVzdHMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARs
C08znJatbpAtNI+dtLmMiqPA9csjv4pAX5hV1Ho/PHk75l9yyMIvOf6MpHlOHVrv
Q6lcjUOOzoOUH1sBwH0Bo3EwbzAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBRT
fVl52YUZaIghfOT2dh0gUhLL6zAYBgNVHREEETAPgg1waWN0dXJlcy50ZXN0MA4G
A1UdDwEB/wQEAwIChDATBgNVHSUEDDAKBggrBgEFBQcDATAKBggqhkjOPQQDAgNI
ADBFAiBphSlKC0YspdnM1rkY+GNLtZW2mk+XnSBChDcSBAvoKgIhAMatiWyWIEcp
j14WFqfAU6OawXS593CIsOzGXxla1hX0
-----END CERTIFICATE-----
"""


def png() -> bytes:
    """A small red picture."""
    data = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(data, "PNG")
    return data.getvalue()


IMAGE = png()
BOMB = gzip.compress(bytes(BOMB_BYTES))


class Handler(BaseHTTPRequestHandler):
    """Has one method per route: ``/drip-body`` is answered by ``drip_body``."""

    server: LoopbackServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        name, _, argument = self.path.strip("/").partition("/")
        route: Callable[..., None] = getattr(self, name.replace("-", "_"))
        with suppress(OSError):  # many routes make the client hang up
            route(argument) if argument else route()

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def start(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def repeat(self, piece: bytes, seconds: float = 0.0) -> None:
        """Write until the client hangs up or the server stops."""
        while not self.server.stopping.wait(seconds):
            self.wfile.write(piece)
            self.wfile.flush()

    def image(self, _query: str = "") -> None:
        self.start(Content_Type="image/png", Content_Length=str(len(IMAGE)))
        self.wfile.write(IMAGE)

    def gzipped(self) -> None:
        self.start(Content_Type="image/png", Content_Encoding="gzip")
        self.wfile.write(gzip.compress(IMAGE))

    def chunked(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE))

    def cookie(self) -> None:
        self.start(302, Location="/image", Set_Cookie="seen=1")

    def redirects(self, count: str) -> None:
        """A chain of ``count`` redirects to the image."""
        left = int(count) - 1
        self.start(302, Location=f"/redirects/{left}" if left else "/image")

    def redirect(self, status: str = "302") -> None:
        target = self.server.redirect_target.encode().decode("latin-1")  # arrives as UTF-8
        self.start(int(status), Location=target)

    def status(self, code: str) -> None:
        self.start(int(code))
        self.wfile.write(IMAGE)

    def typed(self, kind: str) -> None:
        self.start(Content_Type=kind)
        self.wfile.write(b"<p>not an image</p>")

    def bomb(self) -> None:
        self.start(Content_Encoding="gzip", Content_Length=str(len(BOMB)))
        self.wfile.write(BOMB)

    def unpackable(self) -> None:
        self.start(Content_Encoding="gzip")
        self.wfile.write(b"this was never packed")

    def packed(self, encoding: str) -> None:
        self.start(Content_Encoding=encoding)
        self.wfile.write(BOMB)

    def huge_length(self) -> None:
        self.start(Content_Length="99000000000")
        self.server.stopping.wait()

    def negative_chunk(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"-5\r\n")

    def endless(self) -> None:
        self.start()
        self.repeat(bytes(65536))

    def endless_chunks(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.start(Transfer_Encoding="chunked")
        self.repeat(b"10000\r\n" + bytes(65536) + b"\r\n")

    def endless_trailers(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"0\r\n")
        self.repeat(b"a: b\r\n" * 10_000)

    def endless_continue(self) -> None:
        self.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    def drip_body(self) -> None:
        self.start(Content_Length="100000")
        self.repeat(b".", 0.02)

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.repeat(b".", 0.02)

    def silent(self) -> None:
        self.server.stopping.wait()

    def closes_at_once(self) -> None:
        pass

    def closes_early(self) -> None:
        self.start(Content_Length=str(len(IMAGE)))
        self.wfile.write(IMAGE[:20])

    def raw(self) -> None:
        self.wfile.write(self.server.raw_answer)

    def not_http(self) -> None:
        self.wfile.write(b"220 ready for mail\r\n")


class LoopbackServer(ThreadingHTTPServer):
    """Records the requests, and the TLS names of the clients."""

    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tls_names: list[str | None] = []
        self.redirect_target = "/image"
        self.raw_answer = b""
        self.stopping = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def use_tls(self, folder: Path) -> None:
        """Serve HTTPS as pictures.test."""
        file = folder / "pictures.test.pem"
        file.write_text(CERTIFICATE)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.sni_callback = lambda _socket, name, _context: self.tls_names.append(name)
        # The thread of the connection does the handshake, so that a slow client does not block accept().
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """Log nothing: the tests make clients hang up."""


@contextmanager
def running(folder: Path | None = None) -> Iterator[LoopbackServer]:
    """A running server; HTTPS if ``folder`` (for its certificate) is given."""
    with LoopbackServer() as server:
        if folder is not None:
            server.use_tls(folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
