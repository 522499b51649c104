"""Two canaries on loopback, IPv4 and IPv6: servers that nothing may reach through a public path.

A network for tests connects wherever this machine's own services would answer, with one change: ports 80 and
443 lead to the canaries, so that no real service is needed. Names are looked up by the system's resolver;
public addresses are refused, so that no packet leaves the machine.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address

import pytest
from loopback_server import IMAGE

from clipdemo.images.connection import Network

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b" % (len(IMAGE), IMAGE)


class Canaries:
    """Counts who came.

    Attributes:
        visits: the address of the canary for each connection that it accepted.
        attempts: the (address, port) of each connection that was tried, also of those that failed.
    """

    def __init__(self) -> None:
        self.visits: list[str] = []
        self.attempts: list[tuple[str, int]] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        with suppress(OSError):  # a machine without IPv6
            self._sockets.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        self._threads = [threading.Thread(target=self._serve, args=(each,)) for each in self._sockets]

    @property
    def urls(self) -> list[str]:
        """The addresses of the canaries with their real ports."""
        return [
            f"http://{'[::1]' if each.family == socket.AF_INET6 else '127.0.0.1'}:{each.getsockname()[1]}"
            for each in self._sockets
        ]

    def network(self, resolve: Callable[..., list[tuple]] = socket.getaddrinfo) -> Network:
        """The network of a visitor on this machine; ``is_allowed`` is the real one."""
        return Network(resolve=resolve, connect=self.connect)

    def connect(self, address: tuple[str, int], seconds: float) -> socket.socket:
        """Connect as the system would: all of 127/8, and IPv6 in several spellings, are this machine."""
        self.attempts.append(address)
        host = ip_address(address[0])
        inner = host.ipv4_mapped if isinstance(host, IPv6Address) and host.ipv4_mapped else host
        if not (inner.is_loopback or inner.is_unspecified):
            raise ConnectionRefusedError
        served = self._sockets[-1 if inner.version == 6 else 0]
        return socket.create_connection(served.getsockname()[:2], seconds)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                visitor, _ = listening.accept()
                self.visits.append(listening.getsockname()[0])
                with visitor, suppress(OSError):
                    visitor.sendall(ANSWER)


@contextmanager
def running() -> Iterator[Canaries]:
    """Canaries that run; fails the test at the end if anything reached one."""
    canaries = Canaries()
    canaries.start()
    try:
        yield canaries
    finally:
        canaries.stop()
    if canaries.visits:
        pytest.fail(f"canaries were reached: {canaries.visits}")
