"""Opens the answers of the hub: redirects are judged, compression is refused, and sizes and times bounded.

The hub redirects large files to another host. Whoever answers in its place could redirect to a server that
only this machine reaches; such a host is never contacted: its name is resolved once, and the connection goes
to an address that was checked. Behind a proxy, the proxy resolves names.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from clipdemo.errors import HubUnreachableError
from clipdemo.images.addresses import is_public

CONNECT_SECONDS = 10.0  # also the longest silence of the listing
MAX_REDIRECTS = 5
MAX_ADDRESSES = 4  # of one host that are tried

NO_HUB = "the Hugging Face hub does not answer ({reason}); check the connection, or use the embedded model"


def endpoint() -> str:
    """The address of the hub."""
    return (os.getenv("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


class Cutoff:
    """Breaks connections at a deadline, even one that sends a byte of its headers now and then.

    Args:
        seconds: from now to the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._guard = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Cutoff:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._guard:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of a new connection; called by httpx2."""
        if event == "connection.connect_tcp.complete":
            with self._guard:  # TLS takes the socket over; a duplicate stays ours
                self._sockets.append(info["return_value"].get_extra_info("socket").dup())
            if self.passed:
                self._cut()

    def _cut(self) -> None:
        self.passed = True
        with self._guard:
            for each in self._sockets:
                with suppress(OSError):  # closed by the other side
                    each.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_answer(
    url: str,
    timeout: Any,
    *,
    with_token: bool,
    headers: Mapping[str, str] | None = None,
    cutoff: Cutoff | None = None,
) -> Iterator[Any]:
    """The answer to a GET, after redirects; its body is to be read with ``iter_raw``.

    Args:
        url: at the hub.
        timeout: of httpx2.
        with_token: whether the hub (and no other host) is sent the token of this host.
        headers: in addition to the client's.
        cutoff: ends the connections at its deadline.

    Raises:
        HubUnreachableError: too many redirects, or one to a host that is not on the public internet.
    """
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    own = _origin(endpoint())
    for _ in range(MAX_REDIRECTS + 1):
        at_hub = _origin(url) == own
        addresses = [] if at_hub else _public_addresses(url)
        traced = {"trace": cutoff.trace} if cutoff else {}
        sent = {
            **build_hf_headers(token=None if at_hub and with_token else False),
            "Accept-Encoding": "identity",  # offsets count uncompressed bytes, and there are no bombs
            # One that stays open would be used again for another name at the same address.
            "Connection": "close",
            **(headers or {}),
        }
        with _connected(url, addresses, sent, timeout, traced) as response:
            if not response.has_redirect_location:
                yield response
                return
            url = _redirected(url, response.headers["Location"])
    raise HubUnreachableError(NO_HUB.format(reason="it redirects without end"))


@contextmanager
def _connected(
    url: str, addresses: list[str], headers: Mapping[str, str], timeout: Any, extensions: Mapping[str, Any]
) -> Iterator[Any]:
    """The answer to one request, from the first address that takes a connection; without any, by name."""
    import httpx2
    from huggingface_hub import get_session

    parts = urlsplit(url)
    pinned: list[tuple[str, dict[str, str], dict[str, str]]] = [(url, {}, {})]
    if addresses:
        port = f":{parts.port}" if parts.port else ""
        named = {"Host": parts.netloc.rpartition("@")[2]}
        tls = {"sni_hostname": parts.hostname or ""}  # the certificate must be of this name
        pinned = [(parts._replace(netloc=each + port).geturl(), named, tls) for each in addresses]
    with ExitStack() as opened:
        for tries_left, (at, named, tls) in zip(range(len(pinned), 0, -1), pinned, strict=True):
            request = get_session().stream(
                "GET",
                at,
                headers={**headers, **named},
                timeout=timeout,
                follow_redirects=False,
                extensions={**extensions, **tls},
            )
            try:
                response = opened.enter_context(request)
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if tries_left == 1:
                    raise
        yield response


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise HubUnreachableError(NO_HUB.format(reason="it redirects to a malformed address")) from error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:  # a malformed address or port
        raise HubUnreachableError(NO_HUB.format(reason="it redirects to a malformed address")) from error
    return parts.scheme, parts.hostname, port


def _public_addresses(url: str) -> list[str]:
    """The addresses to connect to, as parts of a URL; none if a proxy connects.

    Raises:
        HubUnreachableError: the host, or one of its addresses, is not on the public internet, or is unknown.
    """
    scheme, host, port = _origin(url)
    refusal = HubUnreachableError(NO_HUB.format(reason="it redirects to an address that is not public"))
    if scheme not in {"http", "https"} or not host or not host.isascii():
        raise refusal
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if _has_proxy(scheme, host):
            return []  # only the proxy knows the name
        raise HubUnreachableError(NO_HUB.format(reason="it redirects to an unknown host")) from error
    addresses = list(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
    if not all(map(is_public, addresses)):
        raise refusal
    if _has_proxy(scheme, host):
        return []
    return [f"[{each}]" if each.version == 6 else str(each) for each in addresses[:MAX_ADDRESSES]]


def _has_proxy(scheme: str, host: str) -> bool:
    proxies = getproxies()
    return bool(proxies.get(scheme) or proxies.get("all")) and not proxy_bypass(host)
