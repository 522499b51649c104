"""Networks for tests: they map the public web to a test server, or refuse to connect."""

from __future__ import annotations

import socket

from loopback_server import LoopbackServer

from clipdemo.images.connection import Network
from clipdemo.limits import Limits

PUBLIC = "93.184.215.14"
LIMITS = Limits(file_bytes=1_000_000, url_seconds=5.0)


class World(Network):
    """A network in which every name resolves and every address is the test server.

    Attributes:
        lookups: every name that was looked up.
        connections: every (address, port) that was connected to.
    """

    def __init__(self, server: LoopbackServer, *answers: list[str], **parts: object) -> None:
        """Answer the lookups with ``answers`` in turn; the last one repeats."""
        super().__init__(resolve=self.look_up, connect=self.to_loopback, **parts)
        put = object.__setattr__  # a Network is frozen
        put(self, "server", server)
        put(self, "answers", list(answers) or [[PUBLIC]])
        put(self, "lookups", [])
        put(self, "connections", [])

    def look_up(self, host: str, port: int, **_: object) -> list[tuple]:
        self.lookups.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in answer]

    def to_loopback(self, address: tuple[str, int], seconds: float) -> socket.socket:
        self.connections.append(address)
        return socket.create_connection(("127.0.0.1", self.server.port), seconds)


def no_connection(address: tuple[str, int], _seconds: float) -> socket.socket:
    raise AssertionError(f"connected to {address}")


# The real resolver and the real check of addresses; connecting, which must not happen, fails the test.
SEALED = Network(connect=no_connection)
