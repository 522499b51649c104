"""Pasted text becomes URLs or rejections, and no spelling of a URL reaches an internal address.

The tests send nothing: the network with the real resolver refuses to connect.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in_network import LIMITS, PUBLIC, SEALED, no_connection

from clipdemo.errors import BlockedURLError, FetchError
from clipdemo.images.addresses import is_public, parse_urls
from clipdemo.images.connection import Network
from clipdemo.images.fetch import fetch_bytes
from clipdemo.limits import Limits

# --- which addresses ------------------------------------------------------------------------------

INTERNAL = """
0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::a00:1
100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:20::1 2001:db8::1
2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1
fe80::1%1 2606:4700::1111%1 fec0::1 ff02::1 4000::1
""".split()  # noqa: SIM905 - a table reads better than a list


@pytest.mark.parametrize("text", INTERNAL)
def test_an_internal_address_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", PUBLIC, "168.63.129.17", "2606:4700::1111", "2a00:1450::1"]
)
def test_an_ordinary_address_is_public(text: str) -> None:
    assert is_public(ip_address(text))


ODD_HOSTS = """
127.0.0.1 127.1 127.0.1 127.0.0.1. 2130706433 017700000001 0x7f000001 0X7F.0.0.1 0x7f.1 0177.0.0.1
0177.1 00000177.0x0.0.01 %31%32%37.0.0.1 127。0。0。1 127．0．0．1 ①②⑦.⓪.⓪.① １２７.0.0.1 0.0.0.0 0 0x0.0
169.254.169.254 0xa9.0xfe.0xa9.0xfe 0xa9fea9fe 2852039166 0251.0376.0251.0376 169.254.43518
168.63.129.16 0xa8.0x3f.0x81.0x10 10.1 192.168.1 100.64.1 255.255.255.255 224.1 240.1
localhost LOCALHOST localhost. x.localhost db.internal printer.local router.home.arpa intranet
[::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::127.0.0.1]
[2002:7f00:1::] [2001:0:0:0:0:0:80ff:fffe] [fd00:ec2::254] [fe80::1] [fe80::1%25lo] [::1%25lo] [ff02::1]
""".split()  # noqa: SIM905 - a table reads better than a list


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_every_spelling_of_an_internal_address_is_blocked(host: str) -> None:
    for url in (f"http://{host}/", f"https://{host}:443/latest/meta-data"):
        with pytest.raises(BlockedURLError):
            fetch_bytes(url, LIMITS, network=SEALED)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "0177.0.0.1", "0xa9.0xfe.0xa9.0xfe"])
def test_short_octal_and_hexadecimal_spellings_are_checked_after_resolution(host: str) -> None:
    with pytest.raises(BlockedURLError, match="private or reserved"):
        fetch_bytes(f"http://{host}/", LIMITS, network=SEALED)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://a.test/", "only http:// and https://"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("gopher://a.test/", "only http:// and https://"),
        ("//a.test/", "only http:// and https://"),
        ("a.test/cat.jpg", "only http:// and https://"),
        ("http://a.test:22/", "port 22"),
        ("http://a.test:8080/", "port 8080"),
        ("http://a.test:0/", "port 0"),
        ("http://a.test:99999/", "not a valid web address"),
        ("http://me:secret@a.test/", "user name or password"),
        ("http://me@a.test/", "user name or password"),
        ("http://a.test@127.0.0.1/", "user name or password"),
        ("http://a.test\\@127.0.0.1/", "backslash"),
        ("http://a.test /", "space"),
        ("http://a.test/\r\nHost: b", "control"),
        ("http://a\u200b.test/", "invisible"),
        ("http:///image", "not a valid web address"),
        ("http://", "not a valid web address"),
        ("http://a..test/", "not a valid web address"),
        ("http://[::1/", "not a valid web address"),
        ("http://[1.2.3.4]/", "not a valid web address"),
        (f"http://{'a' * 64}.test/", "not a valid web address"),
        (f"http://{'a.' * 130}test/", "not a valid web address"),
        ("http://a,b.test/", "not a valid web address"),
        (f"http://a.test/{'x' * 2000}", "2014 characters"),
    ],
)
def test_an_unsupported_url_is_blocked_before_any_lookup(url: str, sentence: str) -> None:
    with pytest.raises(BlockedURLError, match=sentence):
        fetch_bytes(url, LIMITS, network=Network(resolve=no_connection, connect=no_connection))


# --- pasted text ----------------------------------------------------------------------------------


def test_urls_are_read_one_per_line() -> None:
    text = "\n  https://a.test/1.jpg \r\n\r\nHTTP://b.test\rhttp://c.test/#top\n"
    urls, rejected = parse_urls(text, LIMITS)
    assert urls == ["https://a.test/1.jpg", "HTTP://b.test", "http://c.test/#top"]
    assert not rejected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("example.test/cat.jpg", "add https://"),
        ("localhost:8501/x", "add https://"),
        ("cat", "add https://"),
        ("ftp://a.test/cat.jpg", "only web addresses"),
        ("data:image/png;base64,AAAA", "only web addresses"),
        ("http://", "only web addresses"),
        ("https:a.test", "only web addresses"),
        ("http://a.test/1 http://a.test/2", "one URL per line"),
        ("http://a.test/\x00", "control"),
        ("http://a.test/\u202egpj", "invisible"),
        ("http://a.test/" + "x" * 1987, "2001 characters"),
    ],
)
def test_a_line_that_is_not_a_url_is_rejected_with_a_hint(line: str, reason: str) -> None:
    urls, [rejected] = parse_urls(line, LIMITS)
    assert not urls
    assert (rejected.verdict, rejected.source) == ("not a URL", "url")
    assert reason in rejected.reason
    assert len(rejected.name) <= 200


def test_a_url_given_twice_is_fetched_once() -> None:
    text = "http://a.test/x\nhttp://a.test/x#1\nhttp://a.test/x?2"
    urls, [rejected] = parse_urls(text, LIMITS)
    assert urls == ["http://a.test/x", "http://a.test/x?2"]
    assert (rejected.name, rejected.verdict) == ("http://a.test/x#1", "duplicate")


def test_urls_over_the_limit_are_rejected_one_by_one() -> None:
    text = "\n".join(f"http://a.test/{number}" for number in range(5))
    urls, rejected = parse_urls(text, Limits(urls=3))
    assert len(urls) == 3
    assert [(item.name, item.verdict) for item in rejected] == [
        ("http://a.test/3", "too many"),
        ("http://a.test/4", "too many"),
    ]
    assert "only the first 3 URLs" in rejected[0].reason


def test_a_paste_of_thousands_of_lines_ends_in_one_summary() -> None:
    urls, rejected = parse_urls("no url\n" * 10_000, Limits(urls=3))
    assert not urls
    assert len(rejected) == 6
    assert "the other 9995 lines were not read" in rejected[-1].reason


@given(
    text=st.lists(
        st.one_of(
            st.text(),
            st.sampled_from(["http://", "https://a.test/", "#", "\n", " ", "\r", "ftp:", "\ud800"]),
        )
    ).map("".join),
    most=st.integers(1, 4),
)
def test_any_text_becomes_urls_or_rejections(text: str, most: int) -> None:
    urls, rejected = parse_urls(text, Limits(urls=most))
    assert len(urls) <= most
    assert len(rejected) <= 2 * most
    assert len(set(urls)) == len(urls)
    assert all(url.lower().startswith(("http://", "https://")) for url in urls)
    assert all(item.reason and item.verdict for item in rejected)


@given(rest=st.text(max_size=60))
def test_any_url_raises_one_of_our_errors(rest: str) -> None:
    def unknown(*_: object, **__: object) -> list[tuple]:
        raise socket.gaierror

    with pytest.raises(FetchError):
        fetch_bytes(f"http://{rest}", LIMITS, network=Network(resolve=unknown, connect=no_connection))
