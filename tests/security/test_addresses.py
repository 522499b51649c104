"""No spelling, redirect, DNS answer or variable of the host leads a fetch to this machine or its network.

The kinds of spellings are those of the lists cujanovic/SSRF-Testing (its ``ip.py``), PayloadsAllTheThings
("Server Side Request Forgery") and the IPv4 and IPv6 parts of wpt's ``url/resources/urltestdata.json``; the
generators below are ours. tests/unit/images has the unit tests of parsing, checking and fetching.
"""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import product

import canaries
import pytest
from canaries import Canaries
from loopback_server import IMAGE, LoopbackServer, running
from stand_in_network import LIMITS, PUBLIC, World

from clipdemo.errors import (
    BlockedURLError,
    FetchError,
    FetchTimeoutError,
    FetchTooLargeError,
    RedirectRefusedError,
    UnreachableURLError,
)
from clipdemo.images.connection import Network
from clipdemo.images.fetch import fetch_bytes
from clipdemo.limits import Limits

INTERNAL = [
    "127.0.0.1",
    "127.88.23.245",
    "169.254.169.254",
    "10.1.2.3",
    "192.168.0.1",
    "172.16.0.9",
    "0.0.0.0",
]
HASTY = Limits(file_bytes=1_000_000, url_seconds=0.5)


@pytest.fixture
def canary() -> Iterator[Canaries]:
    with canaries.running() as both:
        yield both


@pytest.fixture(scope="module")
def shared_server() -> Iterator[LoopbackServer]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared_server: LoopbackServer) -> LoopbackServer:
    shared_server.requests.clear()
    shared_server.redirect_target = "/image"
    return shared_server


def dotted(number: int, *formats: str) -> str:
    """An IPv4 address in parts; the last part takes the remaining bytes."""
    parts = [number >> 8 * (3 - at) & 0xFF for at in range(len(formats) - 1)]
    parts.append(number & (1 << 8 * (5 - len(formats))) - 1)
    return ".".join(format(part, style) for part, style in zip(parts, formats, strict=True))


def ipv4_spellings(address: str) -> Iterator[str]:
    """Decimal, hexadecimal, octal, padded, mixed, overflowing and Unicode spellings of an IPv4 address."""
    number = int(IPv4Address(address))
    for count in range(1, 5):
        for styles in (["d"], ["#x"], ["#X"], ["#o"], ["#x", "d"], ["d", "#x"]):
            text = dotted(number, *(styles[at % len(styles)] for at in range(count)))
            yield text.replace("0o", "0")
            yield text.replace("0o", "0000")
    for text in (address, dotted(number, *["#x"] * 4), str(number)):
        yield f"{text}."
        yield "".join(f"%{ord(character):02x}" for character in text)
        yield "".join(f"%25{ord(character):02x}" for character in text)
        yield text.translate({ord(digit): 0xFF10 + int(digit) for digit in "0123456789"})  # full-width
        yield text.translate({ord(digit): 0x1D7CE + int(digit) for digit in "0123456789"})  # mathematical
        yield text.translate({ord(digit): 0x0E50 + int(digit) for digit in "0123456789"})  # Thai
        for dot in "。．｡":
            yield text.replace(".", dot)
        yield text.replace(".", "\u00ad.")
    yield ".".join(str(int(part) + 256) for part in address.split("."))
    yield str(number + 2**32)
    yield f"0x4141414{number:08x}"
    yield f"o{address}"
    yield f"0o{address}"
    yield f"{address}.0"
    yield f"0.{address}"


def ipv6_spellings(address: str) -> Iterator[str]:
    """IPv6 addresses that carry an IPv4 address, in brackets and in several spellings."""
    for carrier in carriers(address):
        yield f"[{carrier}]"
        yield f"[{carrier.exploded}]"
        yield f"[{carrier.exploded.upper()}]"
        yield f"[{carrier}%25lo]"
        yield f"[{carrier}%1]"
    for form in ("::{}", "::ffff:{}", "0:0:0:0:0:ffff:{}", "64:ff9b::{}", "::ffff:0:{}", "fe80::5efe:{}"):
        yield f"[{form.format(address)}]"
        yield form.format(address)  # without brackets
        yield f"[{form.format(address)}.]"
        yield f"[{form.format(address)}%25lo]"
    yield f"[{address}]"


def carriers(address: str) -> list[IPv6Address]:
    """Mapped, compatible, translated, NAT64, 6to4, Teredo and ISATAP forms of an IPv4 address."""
    number = int(IPv4Address(address))
    return [
        IPv6Address(value)
        for value in (
            number,
            0xFFFF << 32 | number,
            0xFFFF << 48 | number,
            0x64_FF9B << 96 | number,
            0x64_FF9B_0001 << 80 | number,
            0x2002 << 112 | number << 80,
            0x2002 << 112 | number << 80 | 1,
            0x2001_0000 << 96 | number ^ 0xFFFF_FFFF,
            0x2001_0000 << 96 | number << 64,
            0xFE80 << 112 | 0x5EFE << 32 | number,
        )
    ]


def urls(host: str) -> Iterator[str]:
    """Places in a URL at which one parser or another takes the host."""
    other = "pictures.test"
    yield from (f"http://{host}/", f"https://{host}/x", f"http://{host}:80/?@{other}/", f"http://{host}:443/")
    yield from (f"http://{host}#@{other}/", f"http://{host}:80\\@{other}/", f"http://{other}@{host}/")
    yield from (
        f"http://{other}:80@{host}:80/",
        f"http://{other}@@{host}/",
        f"http:{host}/",
        f"http:/{host}/",
    )
    yield from (f"http:\\\\{host}\\", f"http:///{host}/", f"http://@{host}/", f"http://:@{host}/")
    yield from (f"http://{host}:80:80/", f"http://{host}%00.{other}/", f"http://{host}%09{other}/")
    yield from (f"http://{host};{other}:80/", f"http://{host},{other}/", f"http://{other} @{host}/")
    yield from (f"http://{host}\t/", f"ht\ntp://{host}/", f"\x00http://{host}/", f"http://{host}\r\nHost: x/")
    yield from (f"http://{host}:00080/", f"http://{host}:+80/", f"http://{host}:８０/", f"HTTP://{host}/")
    yield from (f"0://{host}:80;{other}/", f"url:http://{host}/", f"jar:http://{host}!/", f"//{host}/")
    yield from (f"gopher://{host}:80/_GET%20/", f"dict://{host}:80/", f"ftp://{host}/", f"ldap://{host}:80/")


NAMES = """
localhost LOCALHOST localhost. localhost.localdomain x.localhost ip6-localhost metadata
metadata.google.internal instance-data rancher-metadata kubernetes.default.svc.cluster.local
ｌｏｃａｌｈｏｓｔ ⓛⓞⓒⓐⓛⓗⓞⓢⓣ loc%61lhost locаlhost ⅼocalhost localhost%00 localhost%2e
[::] [::1] [0:0:0:0:0:0:0:1] [0000::1] [::1%25lo] [::1.] [::0] [fd00:ec2::254] [fe80::1]
""".split()  # noqa: SIM905 - a table reads better than a list


def numeric(host: str, port: int, **options: object) -> list[tuple]:
    """The system's own reading of numbers and of its hosts file, without a question to the network."""
    if host.rstrip(".").endswith("localhost"):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def test_a_canary_counts_who_comes() -> None:
    both = Canaries()
    both.start()
    try:
        for host in ("127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "0.0.0.0"):
            with both.connect((host, 80), 5) as visitor:
                assert visitor.makefile("rb").read().endswith(IMAGE)
    finally:
        both.stop()
    assert len(both.visits) == 4
    with pytest.raises(pytest.fail.Exception, match="canaries were reached"), canaries.running() as caught:
        caught.visits.append("127.0.0.1")


@pytest.mark.parametrize("address", INTERNAL)
def test_no_spelling_of_an_internal_address_is_connected_to(canary: Canaries, address: str) -> None:
    hosts = {*ipv4_spellings(address), *ipv6_spellings(address)}
    assert len(hosts) > 100
    for url in {url for host in hosts for url in urls(host)}:
        with pytest.raises(FetchError):
            fetch_bytes(url, LIMITS, network=canary.network(numeric))
    assert not canary.attempts


def test_no_name_of_this_machine_is_connected_to(canary: Canaries) -> None:
    for name in NAMES:
        for url in urls(name):
            with pytest.raises(FetchError):
                fetch_bytes(url, LIMITS, network=canary.network(numeric))
        assert not canary.attempts, name


def test_a_canarys_own_address_is_refused_for_its_port(canary: Canaries) -> None:
    for url in canary.urls:
        with pytest.raises(BlockedURLError):
            fetch_bytes(url, LIMITS, network=Network())


class Redirecting:
    """A network in which ``*.test`` is a public test server, and everything else this machine's own."""

    def __init__(self, server: LoopbackServer, canary: Canaries) -> None:
        self._server, self._canary = server, canary
        self.network = Network(resolve=self._resolve, connect=self._connect)

    def _resolve(self, host: str, port: int, **options: object) -> list[tuple]:
        if host.endswith(".test"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, port))]
        return numeric(host, port, **options)

    def _connect(self, address: tuple[str, int], seconds: float) -> socket.socket:
        if address[0] == PUBLIC:
            return socket.create_connection(("127.0.0.1", self._server.port), seconds)
        return self._canary.connect(address, seconds)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254"])
def test_no_redirect_leads_to_an_internal_address(
    server: LoopbackServer, canary: Canaries, address: str
) -> None:
    """Some targets are relative for one parser: they may lead back to the public server, or nowhere."""
    redirecting, refused = Redirecting(server, canary), 0
    hosts = [*list(ipv4_spellings(address))[::5], *list(ipv6_spellings(address))[::3], *NAMES[::4]]
    for target in [url for host in hosts for url in list(urls(host))[::3]]:
        if "\n" in target:
            continue  # ends the header; the answers of a raw server are fuzzed in the unit tests
        server.redirect_target = target.encode("utf-8", "replace").decode()
        try:
            fetch_bytes("http://a.test/redirect", LIMITS, network=redirecting.network)
        except FetchError as error:
            refused += isinstance(error, RedirectRefusedError)
        assert not canary.attempts, target
    assert refused > 200


@pytest.mark.parametrize("address", INTERNAL)
def test_no_dns_answer_leads_to_an_internal_address(server: LoopbackServer, address: str) -> None:
    for answer in [ip_address(address), *carriers(address)]:
        world = World(server, [str(answer)], [PUBLIC, str(answer)], [str(answer), PUBLIC])
        for _ in range(3):
            with pytest.raises(BlockedURLError, match="private or reserved"):
                fetch_bytes("http://a.test/image", LIMITS, network=world)
        assert not world.connections


@pytest.mark.parametrize("address", INTERNAL)
def test_an_answer_that_changes_is_never_connected_to(server: LoopbackServer, address: str) -> None:
    """At each position of a chain of redirects; a name is looked up once for each request."""
    for hop, answer in product(range(1, 4), [ip_address(address), *carriers(address)[:3]]):
        world = World(server, *[[PUBLIC]] * hop, [str(answer)])
        with pytest.raises(RedirectRefusedError):
            fetch_bytes("http://a.test/redirects/3", LIMITS, network=world)
        assert world.connections == [(PUBLIC, 80)] * hop
        assert len(world.lookups) == hop + 1


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy", "no_proxy"])
def test_proxies_of_the_host_are_not_used(
    server: LoopbackServer, canary: Canaries, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, url in product((name, name.upper()), canary.urls):
        monkeypatch.setenv(variable, url)
    world = World(server)
    assert fetch_bytes("http://a.test/redirects/2", LIMITS, network=world) == IMAGE
    assert world.connections == [(PUBLIC, 80)] * 3


def test_passwords_of_the_host_are_not_sent(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    for file in (".netrc", "_netrc"):
        (tmp_path / file).write_text(
            "machine a.test login host password secret\ndefault login host password secret\n"
        )
        (tmp_path / file).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_bytes("http://a.test/redirects/2", LIMITS, network=World(server))
    assert len(server.requests) == 3
    for _, headers in server.requests:
        assert not {"Authorization", "Cookie", "Proxy-Authorization", "Referer"} & set(headers)
        assert "secret" not in str(headers)


FLOODS = {
    "one endless header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 3_000_000,
    "a million headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1_000_000,
    "an endless status line": b"HTTP/1.1 200 " + b"O" * 3_000_000,
    "endless provisional answers": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200_000,
    "an endless chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 3_000_000,
    "an endless location": b"HTTP/1.1 302 Found\r\nLocation: http://b.test/" + b"a" * 3_000_000 + b"\r\n\r\n",
    "a chunk of 2^64 bytes": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "a gzip bomb": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(50_000_000)),
    "a deflate bomb": b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n"
    + zlib.compress(bytes(50_000_000)),
    "two layers of gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\n\r\n"
    + gzip.compress(gzip.compress(bytes(50_000_000))),
    "an encoding a thousand times": b"HTTP/1.1 200 OK\r\nContent-Encoding: "
    + b", ".join([b"gzip"] * 1000)
    + b"\r\n\r\nabc",
    "a gzip of a thousand members": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    + gzip.compress(bytes(100_000)) * 1000,
    "a length that is a lie": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nabc",
    "a length of four thousand digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\nabc",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_hostile_answer_ends_in_one_sentence_and_little_memory(
    server: LoopbackServer, flood: bytes
) -> None:
    server.raw_answer = flood
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        with pytest.raises((FetchTooLargeError, UnreachableURLError, RedirectRefusedError)):
            fetch_bytes("http://a.test/raw", LIMITS, network=World(server))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 5 * LIMITS.file_bytes


def test_a_length_that_is_too_short_ends_the_file_there(server: LoopbackServer) -> None:
    server.raw_answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"
    assert fetch_bytes("http://a.test/raw", LIMITS, network=World(server)) == b"abc"


def test_a_slow_chain_of_redirects_has_one_deadline(server: LoopbackServer) -> None:
    """Three slow hops do not get three times the time of one URL."""

    class Slow(World):
        def look_up(self, host: str, port: int, **options: object) -> list[tuple]:
            time.sleep(0.3)
            return super().look_up(host, port, **options)

    world = Slow(server)
    with pytest.raises(FetchTimeoutError):
        fetch_bytes("http://a.test/redirects/3", HASTY, network=world)
    assert len(world.connections) < 4
