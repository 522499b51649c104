"""Networks for tests: names and addresses of the public web, mapped onto a server of our own or sealed off."""

from __future__ import annotations

import socket

from loopback_server import LoopbackServer

from clipdemo.images.connection import Network
from clipdemo.limits import Limits

PUBLIC = "93.184.215.14"
LIMITS = Limits(file_bytes=1_000_000, url_seconds=5.0)


class World(Network):
    """A network in which every name is known and every address is our own server.

    Attributes:
        lookups: every name asked for.
        connections: every address and port connected to.
    """

    def __init__(self, server: LoopbackServer, *answers: list[str], **parts: object) -> None:
        """Answer the lookups with ``answers`` in turn, the last one again and again."""
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


# The real resolver and the real judge; only the last step, which must not be reached, is cut off.
SEALED = Network(connect=no_connection)
