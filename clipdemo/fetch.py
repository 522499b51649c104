"""URL -> bytes; the only file that opens a network connection for images.

Visitors choose the URLs, so the threat is a server talked into visiting its own network. Each hop
is resolved once, every address in the answer is judged, and the socket is opened to a judged
address, never to a name that could resolve differently a moment later.

requests-hardened gives its ranges of addresses that are not public. Its session is left: it judges
only the first DNS answer, and bounds neither the lookup, nor slow headers, nor the size of an
answer. urllib3 speaks HTTP over our own socket, which leaves no proxies, netrc, cookies, retries
or connection reuse to switch off.
"""

from __future__ import annotations

import functools
import http.client
import io
import re
import socket
import ssl
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from requests_hardened.ip_filter import EXTRA_BLOCKED_NET_RANGES
from urllib3.connection import HTTPConnection

from clipdemo.errors import (
    BlockedURLError,
    FetchTimeoutError,
    FetchTooLargeError,
    NotAnImageError,
    RedirectRefusedError,
    UnreachableURLError,
)
from clipdemo.images import decode_image
from clipdemo.limits import MEGABYTE, Limits
from clipdemo.types import ImageItem, Rejected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Address = IPv4Address | IPv6Address

USER_AGENT = "clipdemo/0.1.0"
MAX_REDIRECTS = 3
MAX_URL_LENGTH = 2000
MAX_CONNECTIONS = 8  # of the whole process
QUEUE_SECONDS = 30.0  # to wait for one of them; does not count against the URL's own deadline
_PORTS = {"http": 80, "https": 443}
_CHUNK = 64 * 1024
_DEFAULTS = Limits()

_SLOTS = threading.BoundedSemaphore(MAX_CONNECTIONS)
# getaddrinfo knows no timeout. A lookup that outlasts its URL holds one of these threads until the
# system's resolver gives up; no new thread is ever started for it.
_LOOKUPS = ThreadPoolExecutor(2 * MAX_CONNECTIONS, thread_name_prefix="clipdemo-lookup")

# Names that never are on the public web: not even asked for, so answers say nothing about them.
_LOCAL_NAMES = (
    ".localhost",
    ".local",
    ".localdomain",
    ".internal",
    ".intranet",
    ".lan",
    ".home.arpa",
)
_DENIED = (
    *EXTRA_BLOCKED_NET_RANGES,
    ip_network("0.0.0.0/8"),
    ip_network("100.64.0.0/10"),  # carrier-grade NAT, holds Alibaba's metadata service
    ip_network("168.63.129.16/32"),  # Azure's wire server: a public number, yet inside
    ip_network("169.254.0.0/16"),  # link-local, where most clouds keep their metadata service
    ip_network("2001::/23"),  # IETF protocols, Teredo among them
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4 carries an IPv4 address
)
# Everything else in IPv6 is internal, multicast or a wrapped IPv4 address (mapped, NAT64, ...).
_IPV6_UNICAST = ip_network("2000::/3")

_WIRE_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
_NOT_IMAGES = {
    "text/html": "a web page",
    "application/xhtml+xml": "a web page",
    "application/json": "data",
    "image/svg+xml": "a vector drawing",
}


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet, as far as any list can tell."""
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _IPV6_UNICAST):
        return False
    if any(address in network for network in _DENIED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


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
    target = _Target.parse(url)
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


@dataclass(frozen=True)
class _Target:
    """Where one hop goes; only :meth:`parse` makes one."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> _Target:
        """Read a URL strictly: what two parsers could understand differently is refused."""
        if (problem := _odd_characters(url)) is not None:
            raise BlockedURLError(problem)
        try:
            parts = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError as error:
            raise BlockedURLError("this is no valid web address") from error
        if parts.scheme not in _PORTS:
            raise BlockedURLError("only http:// and https:// addresses are fetched")
        if parts.auth is not None:
            raise BlockedURLError("the address holds a user name or password; leave them out")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if port not in _PORTS.values():
            raise BlockedURLError(f"port {port} is not fetched; only 80 and 443 are")
        return cls(parts.scheme, _host(parts.host or ""), port, parts.request_uri)


def _odd_characters(url: str) -> str | None:
    if any(unicodedata.category(character).startswith("C") for character in url):
        return "the address holds invisible or control characters; type it anew"
    if any(character.isspace() or character == "\\" for character in url):
        return "the address holds a space or backslash; one URL a line, a space is written %20"
    return None


def _host(text: str) -> str:
    """The name or address to look up, in lower case; IPv6 without its brackets."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except ValueError as error:
            raise BlockedURLError("this is no valid web address") from error
        if address.scope_id is not None:  # a zone names a network card of this server
            raise _not_public(str(address))
        return str(address)
    # One dot at the end is the same name, but certificates and local names lack it.
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch("[a-z0-9_-]{1,63}", label) for label in labels):
        raise BlockedURLError("this is no valid web address")
    if len(labels) == 1 or name.endswith(_LOCAL_NAMES):
        raise _not_public(name)
    return name


def _not_public(host: str) -> BlockedURLError:
    return BlockedURLError(
        f"{host} leads to a private or reserved address; only public web addresses are fetched"
    )


def _judged_addresses(target: _Target, meter: _Meter, network: Network) -> list[Address]:
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
        raise _not_public(target.host)
    return addresses


class _PinnedConnection(HTTPConnection):
    """An HTTP(S) connection that can only ever be opened to the judged addresses."""

    def __init__(self, target: _Target, addresses: list[Address], meter: _Meter, network: Network) -> None:
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
            raise _not_public(self._target.host)
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


def parse_urls(text: str, limits: Limits) -> tuple[list[str], list[Rejected]]:
    """Read pasted URLs, one a line.

    Returns:
        The URLs in order, at most ``limits.urls``, and what was left out with the reason. A paste
        of thousands of bad lines ends in one summary: never more than ``2 * limits.urls`` reasons.
    """
    urls: list[str] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line]
    for position, line in enumerate(lines):
        if len(rejected) >= 2 * limits.urls - 1 and position < len(lines) - 1:
            left = len(lines) - position
            reason = f"the other {left} lines were not read; paste at most {limits.urls} URLs"
            rejected.append(Rejected(_short(line), "too many", reason, "url"))
            break
        key = line.partition("#")[0]
        if (problem := _problem(line)) is not None:
            rejected.append(Rejected(_short(line), "not a URL", problem, "url"))
        elif key in seen:
            reason = "this URL is already in the list"
            rejected.append(Rejected(_short(line), "duplicate", reason, "url"))
        elif len(urls) == limits.urls:
            reason = f"only the first {limits.urls} URLs are fetched; paste the rest afterwards"
            rejected.append(Rejected(_short(line), "too many", reason, "url"))
        else:
            seen.add(key)
            urls.append(line)
    return urls, rejected


def _problem(line: str) -> str | None:
    """What keeps a line from being a URL; whether it may be fetched is judged when it is."""
    if len(line) > MAX_URL_LENGTH:
        return f"the line has {len(line)} characters; a URL may have {MAX_URL_LENGTH}"
    if (problem := _odd_characters(line)) is not None:
        return problem
    scheme = re.match(r"[a-z][a-z0-9+.-]*:(?=//|[^0-9])", line, re.IGNORECASE)
    if scheme is None:
        return "a web address starts with http:// or https://; add https://"
    if not re.match(r"https?://[^/?#]", line, re.IGNORECASE):
        return "only web addresses such as https://example.org/cat.jpg are fetched"
    return None


def _short(line: str) -> str:
    return line if len(line) <= 200 else f"{line[:199]}…"
