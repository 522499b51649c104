"""Opens the answers of the hub: redirects are judged, compression is refused, and sizes and times bounded.

The hub redirects large files to another host. Whoever answers in its place could redirect to a server that
only this machine reaches; such a host is never contacted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

from clipdemo.errors import HubUnreachableError
from clipdemo.images.addresses import is_public

CONNECT_SECONDS = 10.0  # also the longest silence of the listing
MAX_REDIRECTS = 5

NO_HUB = "the Hugging Face hub does not answer ({reason}); check the connection, or use the embedded model"


def endpoint() -> str:
    """The address of the hub."""
    return (os.getenv("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@contextmanager
def open_answer(
    url: str, timeout: Any, *, with_token: bool, headers: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """The answer to a GET, after redirects; its body is to be read with ``iter_raw``.

    Args:
        url: at the hub.
        timeout: of httpx2.
        with_token: whether the hub (and no other host) is sent the token of this host.
        headers: in addition to the client's.

    Raises:
        HubUnreachableError: too many redirects, or one to a host that is not on the public internet.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    own = _origin(endpoint())
    for _ in range(MAX_REDIRECTS + 1):
        at_hub = _origin(url) == own
        if not at_hub:
            _check_public(url)
        sent = {
            **build_hf_headers(token=None if at_hub and with_token else False),
            "Accept-Encoding": "identity",  # offsets count uncompressed bytes, and there are no bombs
            **(headers or {}),
        }
        request = get_session().stream("GET", url, headers=sent, timeout=timeout, follow_redirects=False)
        with request as response:
            if not response.has_redirect_location:
                yield response
                return
            url = _redirected(url, response.headers["Location"])
    raise HubUnreachableError(NO_HUB.format(reason="it redirects without end"))


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


def _check_public(url: str) -> None:
    """Refuse a host that, or one address of which, is not on the public internet.

    A name that this machine cannot resolve passes: behind a proxy, only the proxy knows it.
    """
    scheme, host, port = _origin(url)
    refusal = HubUnreachableError(NO_HUB.format(reason="it redirects to an address that is not public"))
    if scheme not in {"http", "https"} or not host:
        raise refusal
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    if not all(is_public(ip_address(answer[4][0])) for answer in answers):
        raise refusal
