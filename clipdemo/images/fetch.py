"""Fetches images from URLs; with :mod:`clipdemo.images.connection`, the only network access for images.

Visitors choose the URLs, so a URL may try to make this server visit its own network. Each redirect is
therefore parsed, resolved and checked like the first URL.
"""

from __future__ import annotations

import io
import threading
from urllib.parse import urljoin

import urllib3

from clipdemo.errors import (
    BlockedURLError,
    FetchTimeoutError,
    NotAnImageError,
    RedirectRefusedError,
    UnreachableURLError,
)
from clipdemo.images import connection
from clipdemo.images.addresses import MAX_URL_LENGTH, Target
from clipdemo.images.connection import CHUNK, INTERNET, MAX_CONNECTIONS, Budget, Network, PinnedConnection
from clipdemo.images.pool import decode_image
from clipdemo.limits import Limits
from clipdemo.types import ImageItem
from clipdemo.version import __version__

USER_AGENT = f"clipdemo/{__version__}"
MAX_REDIRECTS = 3
QUEUE_SECONDS = 30.0  # longest wait for a free connection; not part of the URL's own deadline

_DEFAULT_LIMITS = Limits()
_SLOTS = threading.BoundedSemaphore(MAX_CONNECTIONS)
_NOT_IMAGES = {
    "text/html": "a web page",
    "application/xhtml+xml": "a web page",
    "application/json": "data",
    "image/svg+xml": "a vector drawing",
}


def fetch_image(url: str, *, limits: Limits = _DEFAULT_LIMITS, network: Network = INTERNET) -> ImageItem:
    """Fetch and decode one image.

    Raises:
        FetchError: the URL is blocked, or did not answer with status 200 in time.
        ImageError: the response is not a usable image.
    """
    data = fetch_bytes(url, limits, network=network)
    return decode_image(data, url, source="url", limits=limits)


def fetch_bytes(url: str, limits: Limits, *, network: Network = INTERNET) -> bytes:
    """Fetch the content of a public http or https URL.

    Name lookup, redirects, headers and body count against ``limits.url_seconds``; waiting for one of the
    process's connections does not.

    Raises:
        BlockedURLError: not an address of the public web.
        RedirectRefusedError: more than three redirects, or one to a blocked address.
        FetchTooLargeError: more than ``limits.file_bytes``, unpacked.
        FetchTimeoutError: not complete in time.
        UnreachableURLError: unknown host, no connection, or a status other than 200.
        NotAnImageError: a Content-Type that is not an image.
    """
    if not limits.urls_allowed:
        raise BlockedURLError("this server does not fetch images from addresses; upload the image")
    if len(url) > MAX_URL_LENGTH:
        raise BlockedURLError(f"the address has {len(url)} characters; the limit is {MAX_URL_LENGTH}")
    if not _SLOTS.acquire(timeout=QUEUE_SECONDS):
        raise FetchTimeoutError("too many images are being fetched right now; try again in a minute")
    try:
        return _follow(url, Budget(limits), network)
    finally:
        _SLOTS.release()


def _follow(url: str, budget: Budget, network: Network) -> bytes:
    for hop in range(MAX_REDIRECTS + 1):
        try:
            answer = _request(url, budget, network)
        except BlockedURLError as error:
            if hop == 0:
                raise
            # The target was chosen by the server asked first; the visitor must not learn it.
            raise RedirectRefusedError(
                "the address redirects to one that is not fetched; only public web addresses are"
            ) from error
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise RedirectRefusedError(
        f"the address redirects more than {MAX_REDIRECTS} times; open the image, copy its address"
    )


def _request(url: str, budget: Budget, network: Network) -> bytes | str:
    """Send one request; returns the body, or the URL it redirects to."""
    target = Target.parse(url)
    addresses = connection.resolve(target, budget, network)
    pinned = PinnedConnection(target, addresses, budget, network)
    headers = {
        "Host": target.authority,
        "User-Agent": USER_AGENT,
        "Accept": "image/*",
        "Accept-Encoding": "identity",  # images are compressed already, and unpacking is where bombs go off
        "Connection": "close",
    }
    with connection.translate_network_errors(target.host, budget):
        try:
            pinned.request("GET", target.path, headers=headers, preload_content=False)
            response = pinned.getresponse()
            try:
                location = response.headers.get("Location")
                if response.status in {301, 302, 303, 307, 308} and location:
                    # http.client reads headers as Latin-1; addresses are UTF-8.
                    return urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
                return _body(response, target.host, budget)
            finally:
                response.close()
        finally:
            pinned.close()


def _body(response: urllib3.response.BaseHTTPResponse, host: str, budget: Budget) -> bytes:
    if response.status != 200:
        raise UnreachableURLError(f"{host} answered with status {response.status}, not an image")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _NOT_IMAGES:
        raise NotAnImageError(
            f"the address leads to {_NOT_IMAGES[kind]} ({kind}), not to an image; "
            "open the image itself and copy its address"
        )
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise UnreachableURLError(f"{host} sent its answer in an unsupported encoding")
    if (response.length_remaining or 0) > budget.file_bytes:
        raise budget.size_error()
    data = io.BytesIO()
    while chunk := response.read(CHUNK, decode_content=True):
        data.write(chunk)
        if data.tell() > budget.file_bytes:
            raise budget.size_error()
        budget.seconds_left()
    return data.getvalue()
