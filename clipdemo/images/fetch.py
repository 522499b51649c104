"""URL -> bytes; the only file that opens a network connection for images.

Visitors choose the URLs, so the threat is a server talked into visiting its own network. Each hop
is resolved once, every address in the answer is judged (:mod:`clipdemo.addresses`), and the socket
is opened to a judged address, never to a name that could resolve differently a moment later.

The session of requests-hardened is left: it judges only the first DNS answer, and bounds neither
the lookup, nor slow headers, nor the size of an answer. urllib3 speaks HTTP over our own socket,
which leaves no proxies, netrc, cookies, retries or connection reuse to switch off.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection

from clipdemo.errors import (
    BlockedURLError,
    FetchTimeoutError,
    FetchTooLargeError,
    NotAnImageError,
    RedirectRefusedError,
    UnreachableURLError,
)
from clipdemo.images.addresses import MAX_URL_LENGTH, Address, Target, is_public, not_public
from clipdemo.images.decode import decode_image
from clipdemo.limits import MEGABYTE, Limits
from clipdemo.types import ImageItem
from clipdemo.version import __version__

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

USER_AGENT = f"clipdemo/{__version__}"
MAX_REDIRECTS = 3
MAX_CONNECTIONS = 8  # of the whole process
QUEUE_SECONDS = 30.0  # to wait for one of them; does not count against the URL's own deadline
_CHUNK = 64 * 1024
_DEFAULTS = Limits()

_SLOTS = threading.BoundedSemaphore(MAX_CONNECTIONS)
# getaddrinfo knows no timeout. A lookup that outlasts its URL holds one of these threads until the
# system's resolver gives up; no new thread is ever started for it.
_LOOKUPS = ThreadPoolExecutor(2 * MAX_CONNECTIONS, thread_name_prefix="clipdemo-lookup")

_WIRE_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
_NOT_IMAGES = {
    "text/html": "a web page",
    "application/xhtml+xml": "a web page",
    "application/json": "data",
    "image/svg+xml": "a vector drawing",
}


@functools.cache
def _trust() -> ssl.SSLContext:
    """The system's certificate authorities and those requests brings along; loaded once."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


@dataclass(frozen=True)
class Network:
    """How names become addresses and addresses become connections.

    Nothing a visitor sends can choose another one than :data:`INTERNET`; tests do, to reach their
    own server through exactly the code below.

    Attributes:
        resolve: called as ``socket.getaddrinfo``, once for every hop.
        judge: whether an address may be connected to.
        connect: (address, port) and seconds -> a connected socket.
        trust: the TLS context that checks certificates.
    """

    resolve: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo
    judge: Callable[[Address], bool] = is_public
    connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection
    trust: Callable[[], ssl.SSLContext] = _trust


INTERNET = Network()


def fetch_image(url: str, *, limits: Limits = _DEFAULTS, network: Network = INTERNET) -> ImageItem:
    """Fetch and decode one image.

    Raises:
        FetchError: a URL that gave no answer, or one we do not ask for.
        ImageError: an answer that is not a usable image.
    """
    data = fetch_bytes(url, limits, network=network)
    return decode_image(data, url, source="url", limits=limits)


def fetch_bytes(url: str, limits: Limits, *, network: Network = INTERNET) -> bytes:
    """Fetch what a public http or https URL leads to.

    Waiting for one of the process's connections does not count against ``limits.url_seconds``;
    looking the name up, redirects, the headers and the last byte do.

    Raises:
        BlockedURLError: not an address of the public web.
        RedirectRefusedError: more than three redirects, or one to a blocked address.
        FetchTooLargeError: more than ``limits.file_bytes``, unpacked.
        FetchTimeoutError: not complete in time.
        UnreachableURLError: no such host, no connection, or a status other than 200.
        NotAnImageError: the server itself says that it sends something else.
    """
    if not limits.urls_allowed:
        raise BlockedURLError("this server does not fetch images from addresses; upload the image")
    if len(url) > MAX_URL_LENGTH:
        raise BlockedURLError(f"the address has {len(url)} characters; the limit is {MAX_URL_LENGTH}")
    if not _SLOTS.acquire(timeout=QUEUE_SECONDS):
        raise FetchTimeoutError("too many images are being fetched right now; try again in a minute")
    try:
        return _follow(url, _Meter(limits), network)
    finally:
        _SLOTS.release()


def _follow(url: str, meter: _Meter, network: Network) -> bytes:
    for hop in range(MAX_REDIRECTS + 1):
        try:
            answer = _ask(url, meter, network)
        except BlockedURLError as error:
            if hop == 0:
                raise
            # Where it leads was decided by the server asked first: not for the visitor to learn.
            raise RedirectRefusedError(
                "the address redirects to one that is not fetched; only public web addresses are"
            ) from error
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise RedirectRefusedError(
        f"the address redirects more than {MAX_REDIRECTS} times; open the image, copy its address"
    )


def _ask(url: str, meter: _Meter, network: Network) -> bytes | str:
    """One hop: the bytes, or the URL it redirects to."""
    target = Target.parse(url)
    addresses = _judged_addresses(target, meter, network)
    connection = _PinnedConnection(target, addresses, meter, network)
    with _worded(target.host, meter):
        try:
            # "identity": images are packed already, and unpacking is where bombs go off.
            headers = {
                "Host": target.authority,
                "User-Agent": USER_AGENT,
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            }
            connection.request("GET", target.path, headers=headers, preload_content=False)
            response = connection.getresponse()
            try:
                location = response.headers.get("Location")
                if response.status in {301, 302, 303, 307, 308} and location:
                    # http.client reads headers as Latin-1; addresses are UTF-8.
                    return urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
                return _body(response, target.host, meter)
            finally:
                response.close()
        finally:
            connection.close()


def _body(response: urllib3.response.BaseHTTPResponse, host: str, meter: _Meter) -> bytes:
    if response.status != 200:
        raise UnreachableURLError(f"{host} answered with status {response.status}, not an image")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _NOT_IMAGES:
        raise NotAnImageError(
            f"the address leads to {_NOT_IMAGES[kind]} ({kind}), not to an image; "
            "open the image itself and copy its address"
        )
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    if packing not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise UnreachableURLError(f"{host} packs its answer in a way that is not read here")
    if (response.length_remaining or 0) > meter.file_bytes:
        raise meter.too_large()
    data = io.BytesIO()
    while chunk := response.read(_CHUNK, decode_content=True):
        data.write(chunk)
        if data.tell() > meter.file_bytes:
            raise meter.too_large()
        meter.seconds_left()
    return data.getvalue()


@contextmanager
def _worded(host: str, meter: _Meter) -> Iterator[None]:
    """Turn what the libraries raise into sentences; they would name the address connected to."""
    try:
        yield
    except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
        raise meter.too_late() from error
    except ssl.SSLCertVerificationError as error:
        raise UnreachableURLError(f"{host} has no valid certificate for https") from error
    except _WIRE_ERRORS as error:
        raise UnreachableURLError(f"{host} broke off the connection or gave no proper answer") from error


class _Meter:
    """What is left of one URL's seconds, and of the bytes it may send in all."""

    def __init__(self, limits: Limits) -> None:
        self.file_bytes = limits.file_bytes
        self._seconds = limits.url_seconds
        self._end = time.monotonic() + limits.url_seconds
        # Headers, chunk lines and trailers count too: endless ones would fill the memory.
        self._wire_bytes = limits.file_bytes + MEGABYTE

    def seconds_left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.too_late()
        return left

    def received(self, count: int) -> None:
        self._wire_bytes -= count
        if self._wire_bytes < 0:
            raise self.too_large()

    def too_late(self) -> FetchTimeoutError:
        return FetchTimeoutError(f"the image was not complete after {self._seconds:g} seconds")

    def too_large(self) -> FetchTooLargeError:
        return FetchTooLargeError(f"the file is larger than {self.file_bytes / MEGABYTE:g} MB")


def _judged_addresses(target: Target, meter: _Meter, network: Network) -> list[Address]:
    """Resolve once, judge all: one private address among the answers blocks the name."""
    lookup = _LOOKUPS.submit(network.resolve, target.host, target.port, type=socket.SOCK_STREAM)
    try:
        answers = lookup.result(timeout=meter.seconds_left())
        # The last field is (address, port, ...); a set would lose the resolver's order.
        addresses = list(dict.fromkeys(ip_address(answer[-1][0]) for answer in answers))
    except TimeoutError as error:
        lookup.cancel()
        raise meter.too_late() from error
    except (OSError, ValueError) as error:
        raise UnreachableURLError(f"{target.host} is not known; check the spelling") from error
    if not all(network.judge(address) for address in addresses):
        raise not_public(target.host)
    return addresses


class _PinnedConnection(HTTPConnection):
    """An HTTP(S) connection that can only ever be opened to the judged addresses."""

    def __init__(self, target: Target, addresses: list[Address], meter: _Meter, network: Network) -> None:
        super().__init__(target.host, target.port, timeout=meter.seconds_left())
        self._target, self._addresses = target, addresses[:4]
        self._meter, self._network = meter, network
        self.response_class = self._metered  # type: ignore[assignment]  # any callable serves

    def connect(self) -> None:
        self.sock = self._open()
        self.sock.settimeout(self._meter.seconds_left())
        if self._target.scheme == "https":
            # The name, not the address, is asked for (SNI) and must be on the certificate.
            host, trust = self._target.host, self._network.trust()
            self.sock = trust.wrap_socket(self.sock, server_hostname=host)

    def _metered(self, sock: socket.socket, method: str | None = None) -> http.client.HTTPResponse:
        reader: Any = _MeteredReader(self._meter, sock)  # all of a socket that is used: makefile
        return http.client.HTTPResponse(reader, method=method)

    def _open(self) -> socket.socket:
        """Try the addresses in turn, leaving each an equal share of the time."""
        for tries_left, address in zip(range(len(self._addresses), 0, -1), self._addresses, strict=True):
            try:
                seconds = self._meter.seconds_left() / tries_left
                sock = self._network.connect((str(address), self._target.port), seconds)
            except OSError:
                continue
            if sock.getsockname()[0] != str(address):
                return sock
            sock.close()  # both ends are the same machine: this server under its public address
            raise not_public(self._target.host)
        self._meter.seconds_left()
        raise UnreachableURLError(f"{self._target.host} does not accept a connection")


class _MeteredReader(io.RawIOBase):
    """The receiving side of a socket, with the meter running.

    A socket's own timeout starts anew with every byte that drips in; here each wait, for headers as
    for the body, may last only as long as the whole URL still has. No thread has to watch.
    """

    def __init__(self, meter: _Meter, sock: socket.socket) -> None:
        self._meter, self._sock = meter, sock
        self._stream = sock.makefile("rb", buffering=0)  # keeps the socket open until closed

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._sock.settimeout(self._meter.seconds_left())
        count = self._stream.readinto(buffer)
        self._meter.received(count or 0)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
