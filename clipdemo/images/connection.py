"""HTTP connections to addresses that were checked, within the time and bytes of one URL.

A host name is resolved once, every address in the answer is checked (:mod:`clipdemo.images.addresses`), and
the socket is opened to a checked address: never to a name that could resolve differently a moment later.
requests offers no place for that: it resolves the name again when it connects. urllib3 speaks HTTP over our
own socket, which also leaves proxies, netrc, cookies, retries and connection reuse out.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection

from clipdemo.errors import FetchTimeoutError, FetchTooLargeError, UnreachableURLError
from clipdemo.images.addresses import Address, Target, is_public, not_public_error
from clipdemo.limits import MEGABYTE, Limits

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_CONNECTIONS = 8  # of the whole process
CHUNK = 64 * 1024  # bytes per read

# getaddrinfo has no timeout. A lookup that outlasts its URL occupies one of these threads until the system's
# resolver gives up; the number of threads is bounded.
_LOOKUPS = ThreadPoolExecutor(2 * MAX_CONNECTIONS, thread_name_prefix="clipdemo-lookup")


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Trusts the certificate authorities of the system and of requests; loaded once."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


@dataclass(frozen=True)
class Network:
    """How names become addresses, and addresses become connections.

    Visitors always get :data:`INTERNET`. Tests replace parts of it, to reach their own server through the
    same code.

    Attributes:
        resolve: called like ``socket.getaddrinfo``, once per request.
        is_allowed: whether to connect to an address.
        connect: (address, port) and seconds -> a connected socket.
        tls_context: returns the context that checks certificates.
    """

    resolve: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo
    is_allowed: Callable[[Address], bool] = is_public
    connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection
    tls_context: Callable[[], ssl.SSLContext] = _tls_context


INTERNET = Network()


class Budget:
    """The seconds and bytes that one URL has left, redirects included."""

    def __init__(self, limits: Limits) -> None:
        self.file_bytes = limits.file_bytes
        self._seconds = limits.url_seconds
        self._deadline = time.monotonic() + limits.url_seconds
        # Headers, chunk lines and trailers count too: endless ones would fill the memory.
        self._bytes_left = limits.file_bytes + MEGABYTE

    def seconds_left(self) -> float:
        """Seconds until the deadline; raises FetchTimeoutError after it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.timeout_error()
        return left

    def spend(self, count: int) -> None:
        """Count received bytes; raises FetchTooLargeError beyond the limit."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise self.size_error()

    def timeout_error(self) -> FetchTimeoutError:
        """The error for a response that is late."""
        return FetchTimeoutError(f"the image was not complete after {self._seconds:g} seconds")

    def size_error(self) -> FetchTooLargeError:
        """The error for a response that is too large."""
        return FetchTooLargeError(f"the file is larger than {self.file_bytes / MEGABYTE:g} MB")


def resolve(target: Target, budget: Budget, network: Network) -> list[Address]:
    """Resolve the host once and check all addresses: a single private one blocks the name.

    Raises:
        BlockedURLError: an address that may not be connected to.
        FetchTimeoutError: the lookup did not finish in time.
        UnreachableURLError: an unknown name.
    """
    lookup = _LOOKUPS.submit(network.resolve, target.host, target.port, type=socket.SOCK_STREAM)
    try:
        answers = lookup.result(timeout=budget.seconds_left())
        # The last field is (address, port, ...). A dict keeps the resolver's order; a set would lose it.
        addresses = list(dict.fromkeys(ip_address(answer[-1][0]) for answer in answers))
    except TimeoutError as error:
        lookup.cancel()
        raise budget.timeout_error() from error
    except (OSError, ValueError) as error:
        raise UnreachableURLError(f"{target.host} is not known; check the spelling") from error
    if not all(network.is_allowed(address) for address in addresses):
        raise not_public_error(target.host)
    return addresses


@contextmanager
def translate_network_errors(host: str, budget: Budget) -> Iterator[None]:
    """Turn what the libraries raise into our errors; their messages would reveal the address.

    Raises:
        FetchTimeoutError: the response is late.
        UnreachableURLError: the connection or the response is broken.
    """
    try:
        yield
    except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
        raise budget.timeout_error() from error
    except ssl.SSLCertVerificationError as error:
        raise UnreachableURLError(f"{host} lacks a valid https certificate") from error
    except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise UnreachableURLError(f"{host} closed the connection or sent a malformed response") from error


class PinnedConnection(HTTPConnection):
    """An HTTP or HTTPS connection that opens only to the given addresses."""

    def __init__(self, target: Target, addresses: list[Address], budget: Budget, network: Network) -> None:
        super().__init__(target.host, target.port, timeout=budget.seconds_left())
        self._target, self._addresses = target, addresses[:4]
        self._budget, self._network = budget, network
        self.response_class = self._read_response  # type: ignore[assignment]  # any callable serves

    def connect(self) -> None:
        """Open the socket; https checks the certificate against the host name, which is also sent as SNI."""
        self.sock = self._open()
        self.sock.settimeout(self._budget.seconds_left())
        if self._target.scheme == "https":
            context = self._network.tls_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self._target.host)

    def _read_response(self, sock: socket.socket, method: str | None = None) -> http.client.HTTPResponse:
        reader: Any = _BudgetedReader(self._budget, sock)  # HTTPResponse calls only the socket's makefile
        return http.client.HTTPResponse(reader, method=method)

    def _open(self) -> socket.socket:
        """Try the addresses in turn; each gets an equal share of the time left."""
        for tries_left, address in zip(range(len(self._addresses), 0, -1), self._addresses, strict=True):
            try:
                seconds = self._budget.seconds_left() / tries_left
                sock = self._network.connect((str(address), self._target.port), seconds)
            except OSError:
                continue
            if sock.getsockname()[0] != str(address):
                return sock
            sock.close()  # both ends are this machine: the server under its public address
            raise not_public_error(self._target.host)
        self._budget.seconds_left()
        raise UnreachableURLError(f"{self._target.host} does not accept a connection")


class _BudgetedReader(io.RawIOBase):
    """The receiving side of a socket; every read is limited by what the URL has left.

    A socket's own timeout starts again with every byte that arrives. Here each wait, for headers as for the
    body, ends at the deadline of the URL, without a thread that watches.
    """

    def __init__(self, budget: Budget, sock: socket.socket) -> None:
        self._budget, self._sock = budget, sock
        self._stream = sock.makefile("rb", buffering=0)  # keeps the socket open until closed

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._sock.settimeout(self._budget.seconds_left())
        count = self._stream.readinto(buffer)
        self._budget.spend(count or 0)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
