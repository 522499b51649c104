"""The fetcher connects only to public web addresses, within the time and bytes of one URL.

The tests send nothing beyond loopback: a :class:`stand_in_network.World` maps names and addresses of the
public web to a test server. ``test_addresses.py`` tests how addresses are parsed and checked.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
import tomllib
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_server import BOMB_BYTES, CERTIFICATE, IMAGE, LoopbackServer, running
from stand_in_network import LIMITS, PUBLIC, SEALED, World

from clipdemo.errors import (
    BlockedURLError,
    FetchError,
    FetchTimeoutError,
    FetchTooLargeError,
    NotAnImageError,
    RedirectRefusedError,
    UnreachableURLError,
)
from clipdemo.images import connection, fetch
from clipdemo.images.connection import Network
from clipdemo.images.fetch import fetch_bytes, fetch_image
from clipdemo.limits import Limits

HASTY = Limits(file_bytes=1_000_000, url_seconds=0.3)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[LoopbackServer]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared_server: LoopbackServer) -> LoopbackServer:
    shared_server.requests.clear()
    shared_server.redirect_target = "/image"
    return shared_server


# --- responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["image", "gzipped", "chunked", "redirects/3", "image/?q=1#top"])
def test_an_image_arrives_byte_for_byte(server: LoopbackServer, route: str) -> None:
    assert fetch_bytes(f"http://a.test/{route}", LIMITS, network=World(server)) == IMAGE


def test_fetch_image_decodes_under_the_name_of_its_url(server: LoopbackServer) -> None:
    item = fetch_image("http://a.test/image", network=World(server))
    assert (item.name, item.source) == ("http://a.test/image", "url")
    assert (item.width, item.height) == (32, 24)
    assert item.sha256 == hashlib.sha256(IMAGE).hexdigest()


def test_the_request_sends_few_headers_and_names_clipdemo(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    world = World(server)
    fetch_bytes("http://A.Test:443/image/?q=ä", LIMITS, network=world)
    [(path, headers)] = server.requests
    assert path == "/image/?q=%C3%A4"
    assert headers == {
        "Host": "a.test:443",
        "User-Agent": fetch.USER_AGENT,
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    assert world.connections == [(PUBLIC, 443)]


def test_the_user_agent_carries_the_version() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    assert f"clipdemo/{version}" == fetch.USER_AGENT


def test_no_cookie_survives_a_redirect(server: LoopbackServer) -> None:
    fetch_bytes("http://a.test/cookie", LIMITS, network=World(server))
    assert all("Cookie" not in headers for _, headers in server.requests)


def test_an_international_name_is_looked_up_in_its_ascii_form(server: LoopbackServer) -> None:
    world = World(server)
    fetch_bytes("http://bücher.test/image", LIMITS, network=world)
    assert world.lookups == ["xn--bcher-kva.test"]


# --- which addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [["10.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"], [PUBLIC, "fe80::1%eth0"], ["::1"]]
)
def test_one_private_answer_blocks_the_whole_name(server: LoopbackServer, answer: list[str]) -> None:
    world = World(server, answer)
    with pytest.raises(BlockedURLError) as caught:
        fetch_bytes("http://a.test/image", LIMITS, network=world)
    assert not world.connections
    assert str(caught.value) == (
        "a.test leads to a private or reserved address; only public web addresses are fetched"
    )


def test_a_name_that_changes_its_address_is_connected_where_it_was_checked(
    server: LoopbackServer,
) -> None:
    world = World(server, [PUBLIC], ["127.0.0.1"])
    assert fetch_bytes("http://rebind.test/image", LIMITS, network=world) == IMAGE
    assert (world.lookups, world.connections) == (["rebind.test"], [(PUBLIC, 80)])


def test_a_name_that_changes_its_address_is_checked_again_after_a_redirect(
    server: LoopbackServer,
) -> None:
    world = World(server, [PUBLIC], ["127.0.0.1"])
    with pytest.raises(RedirectRefusedError):
        fetch_bytes("http://rebind.test/redirect", LIMITS, network=world)
    assert world.lookups == ["rebind.test"] * 2
    assert world.connections == [(PUBLIC, 80)]


def test_the_server_never_connects_to_itself_even_if_the_check_allows_it(
    server: LoopbackServer,
) -> None:
    world = World(server, ["127.0.0.1"], is_allowed=lambda _: True)
    with pytest.raises(BlockedURLError):
        fetch_bytes("http://me.test/image", LIMITS, network=world)
    assert not server.requests


def test_the_next_address_is_tried_when_one_does_not_answer(server: LoopbackServer) -> None:
    class HalfDead(World):
        def to_loopback(self, address: tuple[str, int], seconds: float) -> socket.socket:
            if address[0] == "8.8.8.8":
                raise OSError("no route")
            return super().to_loopback(address, seconds)

    world = HalfDead(server, ["8.8.8.8", PUBLIC])
    assert fetch_bytes("http://a.test/image", LIMITS, network=world) == IMAGE


# --- redirects ------------------------------------------------------------------------------------


def test_a_fourth_redirect_is_refused(server: LoopbackServer) -> None:
    world = World(server)
    with pytest.raises(RedirectRefusedError, match="more than 3 times"):
        fetch_bytes("http://a.test/redirects/4", LIMITS, network=world)
    assert len(world.lookups) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_another_public_name(server: LoopbackServer, status: int) -> None:
    server.redirect_target = "http://ü.test/image"
    world = World(server)
    assert fetch_bytes(f"http://a.test/redirect/{status}", LIMITS, network=world) == IMAGE
    assert world.lookups == ["a.test", "xn--tda.test"]


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://0x7f.1/",
        "//169.254.169.254/latest",
        "http://[::1]/",
        "http://localhost/",
        "http://secret-name.internal/",
        "http://b.test:8501/",
        "http://me:secret@b.test/",
        "ftp://b.test/image",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://b.test\\@127.0.0.1/",
    ],
)
def test_a_redirect_to_a_blocked_address_is_refused(server: LoopbackServer, target: str) -> None:
    class Mixed(World):
        def look_up(self, host: str, port: int, **options: object) -> list[tuple]:
            if host.endswith(".test"):
                return super().look_up(host, port, **options)
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    server.redirect_target = target
    world = Mixed(server)
    with pytest.raises(RedirectRefusedError) as caught:
        fetch_bytes("http://a.test/redirect", LIMITS, network=world)
    assert len(world.connections) == 1
    assert target.strip("/") not in str(caught.value)


# --- how much and how long ------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["bomb", "huge-length", "endless", "endless-chunks", "endless-trailers"])
def test_a_response_over_the_limit_is_cut_off_before_it_fills_the_memory(
    server: LoopbackServer, route: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FetchTooLargeError, match="larger than 1 MB"):
            fetch_bytes(f"http://a.test/{route}", LIMITS, network=World(server))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMITS.file_bytes < BOMB_BYTES / 10


def test_a_file_of_exactly_the_limit_arrives(server: LoopbackServer) -> None:
    limits = Limits(file_bytes=len(IMAGE))
    assert fetch_bytes("http://a.test/image", limits, network=World(server)) == IMAGE
    with pytest.raises(FetchTooLargeError):
        fetch_bytes("http://a.test/image", Limits(file_bytes=len(IMAGE) - 1), network=World(server))


@pytest.mark.parametrize("route", ["drip-body", "drip-headers", "silent"])
def test_a_slow_response_times_out(server: LoopbackServer, route: str) -> None:
    start = time.monotonic()
    with pytest.raises(FetchTimeoutError, match=r"after 0\.3 seconds"):
        fetch_bytes(f"http://a.test/{route}", HASTY, network=World(server))
    assert time.monotonic() - start < 10 * HASTY.url_seconds


def test_endless_headers_are_cut_off(server: LoopbackServer) -> None:
    with pytest.raises((FetchTimeoutError, FetchTooLargeError)):
        fetch_bytes("http://a.test/endless-continue", HASTY, network=World(server))


def test_a_slow_lookup_times_out(server: LoopbackServer) -> None:
    answer = threading.Event()
    try:
        with pytest.raises(FetchTimeoutError):
            fetch_bytes("http://a.test/", HASTY, network=Network(resolve=lambda *_, **__: answer.wait(9)))
    finally:
        answer.set()


def test_a_slow_connection_times_out() -> None:
    def connect(_address: tuple[str, int], seconds: float) -> socket.socket:
        time.sleep(seconds)
        raise TimeoutError

    def resolve(*_: object, **__: object) -> list[tuple]:
        return [(2, 1, 6, "", (f"8.8.8.{last}", 80)) for last in range(9)]

    with pytest.raises(FetchTimeoutError):
        fetch_bytes("http://a.test/", HASTY, network=Network(resolve=resolve, connect=connect))


def test_a_slow_handshake_times_out(server: LoopbackServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, never speaks TLS

        def connect(_address: tuple[str, int], seconds: float) -> socket.socket:
            return socket.create_connection(mute.getsockname(), seconds)

        world = World(server)
        with pytest.raises(FetchTimeoutError):
            fetch_bytes("https://a.test/", HASTY, network=Network(resolve=world.resolve, connect=connect))


def test_no_more_than_eight_urls_are_fetched_at_once(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "QUEUE_SECONDS", 0.05)
    release, inside = threading.Event(), threading.Semaphore(0)

    class Waiting(World):
        def look_up(self, host: str, port: int, **options: object) -> list[tuple]:
            inside.release()
            release.wait(5)
            return super().look_up(host, port, **options)

    def hold() -> None:
        fetch_bytes("http://a.test/image", LIMITS, network=Waiting(server))

    threads = [threading.Thread(target=hold) for _ in range(connection.MAX_CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        assert all(inside.acquire(timeout=5) for _ in threads)
        with pytest.raises(FetchTimeoutError, match="too many images"):
            fetch_bytes("http://a.test/image", LIMITS, network=World(server))
    finally:
        release.set()
        for thread in threads:
            thread.join()
    assert fetch_bytes("http://a.test/image", LIMITS, network=World(server)) == IMAGE


# --- responses without an image -------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 429, 500, 503])
def test_a_status_other_than_200_is_named(server: LoopbackServer, status: int) -> None:
    with pytest.raises(UnreachableURLError, match=rf"a\.test answered with status {status}"):
        fetch_bytes(f"http://a.test/status/{status}", LIMITS, network=World(server))


def test_a_redirect_without_a_location_is_reported_with_its_status(server: LoopbackServer) -> None:
    with pytest.raises(UnreachableURLError, match="status 302"):
        fetch_bytes("http://a.test/status/302", LIMITS, network=World(server))


def test_a_web_page_is_refused_with_its_type(server: LoopbackServer) -> None:
    with pytest.raises(NotAnImageError) as caught:
        fetch_bytes("http://a.test/typed/Text/HTML;charset=x", LIMITS, network=World(server))
    assert str(caught.value) == (
        "the address leads to a web page (text/html), not to an image; "
        "open the image itself and copy its address"
    )


@pytest.mark.parametrize("kind", ["application/json", "image/svg+xml", "application/xhtml+xml"])
def test_other_types_that_are_not_images_are_refused(server: LoopbackServer, kind: str) -> None:
    with pytest.raises(NotAnImageError, match="not to an image"):
        fetch_bytes(f"http://a.test/typed/{kind}", LIMITS, network=World(server))


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", "image/unheard-of"])
def test_an_ambiguous_type_is_left_to_the_decoder(server: LoopbackServer, kind: str) -> None:
    assert fetch_bytes(f"http://a.test/typed/{kind}", LIMITS, network=World(server))


@pytest.mark.parametrize(
    "route",
    ["closes-at-once", "closes-early", "not-http", "unpackable", "negative-chunk", "packed/br"],
)
def test_a_malformed_response_is_reported_as_unreachable(server: LoopbackServer, route: str) -> None:
    with pytest.raises(UnreachableURLError, match=r"a\.test"):
        fetch_bytes(f"http://a.test/{route}", LIMITS, network=World(server))


@pytest.mark.parametrize("target", ["http://[", "http://[::1"])
def test_a_broken_redirect_raises_one_of_our_errors(server: LoopbackServer, target: str) -> None:
    server.redirect_target = target
    with pytest.raises(FetchError):
        fetch_bytes("http://a.test/redirect", LIMITS, network=World(server))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\nLocation: "]),
    fields=st.lists(
        st.sampled_from(
            [
                b"Content-Length: -1\r\n",
                b"Content-Length: 5, 6\r\n",
                b"Content-Length: 7\r\n",
                b"Content-Encoding: gzip\r\n",
                b"Content-Encoding: deflate\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Type: \xff;;\r\n",
                b"\xe9: \x00\r\n",
                b"\r\n",
                b"5\r\nabcde\r\n",
                b"-1\r\n",
                b"0\r\n\r\n",
                b"\x1f\x8b\x08\x00",
            ]
        )
        | st.binary(max_size=20)
    ),
)
def test_whatever_a_server_sends_becomes_bytes_or_one_of_our_errors(
    server: LoopbackServer, head: bytes, fields: list[bytes]
) -> None:
    server.raw_answer = head + b"".join(fields)
    with suppress(FetchError, NotAnImageError):
        data = fetch_bytes("http://a.test/raw", LIMITS, network=World(server))
        assert len(data) <= LIMITS.file_bytes


def test_an_unknown_name_and_a_closed_port_are_unreachable(server: LoopbackServer) -> None:
    def unknown(*_: object, **__: object) -> list[tuple]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def refused(*_: object) -> socket.socket:
        raise ConnectionRefusedError

    with pytest.raises(UnreachableURLError, match=r"a\.test is not known"):
        fetch_bytes("http://a.test/", LIMITS, network=Network(resolve=unknown))
    resolve = World(server).resolve
    with pytest.raises(UnreachableURLError, match=r"a\.test does not accept"):
        fetch_bytes("http://a.test/", LIMITS, network=Network(resolve=resolve, connect=refused))


def test_a_server_with_urls_switched_off_says_so() -> None:
    with pytest.raises(BlockedURLError, match="does not fetch"):
        fetch_bytes("http://a.test/", Limits(urls_allowed=False), network=SEALED)


# --- https ----------------------------------------------------------------------------------------


def our_tls_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :])


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    with running(tmp_path_factory.mktemp("tls")) as server:
        yield server


def test_https_checks_the_name_and_not_the_address(tls_server: LoopbackServer) -> None:
    tls_server.tls_names.clear()
    world = World(tls_server, tls_context=our_tls_context)
    assert fetch_bytes("https://pictures.test./image", LIMITS, network=world) == IMAGE
    assert tls_server.tls_names == ["pictures.test"]
    assert tls_server.requests[-1][1]["Host"] == "pictures.test"
    assert world.connections == [(PUBLIC, 443)]


def test_a_certificate_for_another_name_is_refused(tls_server: LoopbackServer) -> None:
    with pytest.raises(UnreachableURLError, match=r"other\.test lacks a valid https certificate"):
        fetch_bytes(
            "https://other.test/image", LIMITS, network=World(tls_server, tls_context=our_tls_context)
        )


def test_an_untrusted_certificate_is_refused(tls_server: LoopbackServer) -> None:
    with pytest.raises(UnreachableURLError, match="lacks a valid https certificate"):
        fetch_bytes("https://pictures.test/image", LIMITS, network=World(tls_server))


def test_a_slow_response_over_https_times_out(tls_server: LoopbackServer) -> None:
    with pytest.raises(FetchTimeoutError):
        fetch_bytes(
            "https://pictures.test/drip-headers",
            HASTY,
            network=World(tls_server, tls_context=our_tls_context),
        )


def test_https_to_a_plain_http_server_is_unreachable(server: LoopbackServer) -> None:
    with pytest.raises(UnreachableURLError):
        fetch_bytes("https://a.test/image", LIMITS, network=World(server))
