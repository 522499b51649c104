"""Which URLs and IP addresses may be fetched.

URLs are parsed strictly and IP addresses checked against the public internet. Nothing here resolves a name or
opens a connection; :mod:`clipdemo.images.fetch` does that for what passes.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

import urllib3

from clipdemo.errors import BlockedURLError
from clipdemo.limits import Limits
from clipdemo.types import Rejected

Address = IPv4Address | IPv6Address

MAX_URL_LENGTH = 2000
_PORTS = {"http": 80, "https": 443}

# Names that are never on the public web. They are not looked up, so the answer reveals nothing about them.
_LOCAL_NAMES = (
    ".localhost",
    ".local",
    ".localdomain",
    ".internal",
    ".intranet",
    ".lan",
    ".home.arpa",
)
# Ranges that ipaddress calls global, at least in older Python releases.
# Source: IANA special-purpose address registries; Python's own list is corrected by
# github.com/python/cpython/issues/113171; 6to4 relays as in requests-hardened.
_BLOCKED = (
    ip_network("0.0.0.0/8"),
    ip_network("100.64.0.0/10"),  # carrier-grade NAT; Alibaba's metadata service
    ip_network("168.63.129.16/32"),  # Azure's wire server: a public number, yet internal
    ip_network("169.254.0.0/16"),  # link-local; the metadata service of most clouds
    ip_network("192.0.0.0/24"),  # IETF protocols
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("2001::/23"),  # IETF protocols, Teredo among them
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4 carries an IPv4 address
    ip_network("3fff::/20"),  # documentation
)
# The rest of IPv6 is internal, multicast or a wrapped IPv4 address (mapped, NAT64, ...).
_IPV6_UNICAST = ip_network("2000::/3")


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet, as far as the lists of special ranges tell."""
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _IPV6_UNICAST):
        return False
    if any(address in network for network in _BLOCKED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


@dataclass(frozen=True)
class Target:
    """Where one request goes; created by :meth:`parse`."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header: IPv6 in brackets, the port only if it is not the default one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Target:
        """Parse a URL strictly: a URL that two parsers could read differently is refused.

        Raises:
            BlockedURLError: not a plain http or https URL on port 80 or 443.
        """
        if (problem := _odd_characters(url)) is not None:
            raise BlockedURLError(problem)
        try:
            parts = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError as error:
            raise BlockedURLError("this is not a valid web address") from error
        if parts.scheme not in _PORTS:
            raise BlockedURLError("only http:// and https:// addresses are fetched")
        if parts.auth is not None:
            raise BlockedURLError("the address contains a user name or password; leave them out")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if port not in _PORTS.values():
            raise BlockedURLError(f"port {port} is not allowed; only 80 and 443 are")
        return cls(parts.scheme, _host(parts.host or ""), port, parts.request_uri)


def _odd_characters(url: str) -> str | None:
    if any(unicodedata.category(character).startswith("C") for character in url):
        return "the address contains invisible or control characters; type it again"
    if any(character.isspace() or character == "\\" for character in url):
        return "the address contains a space or backslash; write one URL per line, and a space as %20"
    return None


def _host(text: str) -> str:
    """The name or address to look up, in lower case; IPv6 without brackets."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except ValueError as error:
            raise BlockedURLError("this is not a valid web address") from error
        if address.scope_id is not None:  # a zone is a network interface of this server
            raise not_public_error(str(address))
        return str(address)
    # A final dot does not change the name; certificates and local names are without it.
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch("[a-z0-9_-]{1,63}", label) for label in labels):
        raise BlockedURLError("this is not a valid web address")
    if len(labels) == 1 or name.endswith(_LOCAL_NAMES):
        raise not_public_error(name)
    return name


def not_public_error(host: str) -> BlockedURLError:
    """The error for a blocked host; names the host as requested, never the address it resolved to."""
    return BlockedURLError(
        f"{host} leads to a private or reserved address; only public web addresses are fetched"
    )


def parse_urls(text: str, limits: Limits) -> tuple[list[str], list[Rejected]]:
    """Read pasted URLs, one per line.

    Returns:
        The URLs in order, at most ``limits.urls``, and the rejected lines with reasons. A paste of thousands
        of bad lines ends in one summary: at most ``2 * limits.urls`` rejections.
    """
    urls: list[str] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line]
    for position, line in enumerate(lines):
        if len(rejected) >= 2 * limits.urls - 1 and position < len(lines) - 1:
            left = len(lines) - position
            reason = f"the other {left} lines were not read; paste at most {limits.urls} URLs"
            rejected.append(Rejected(_short(line), "too many", reason, "url"))
            break
        key = line.partition("#")[0]
        if (problem := _problem(line)) is not None:
            rejected.append(Rejected(_short(line), "not a URL", problem, "url"))
        elif key in seen:
            reason = "this URL is already in the list"
            rejected.append(Rejected(_short(line), "duplicate", reason, "url"))
        elif len(urls) == limits.urls:
            reason = f"only the first {limits.urls} URLs are fetched; paste the rest afterwards"
            rejected.append(Rejected(_short(line), "too many", reason, "url"))
        else:
            seen.add(key)
            urls.append(line)
    return urls, rejected


def _problem(line: str) -> str | None:
    """Why a line is not a URL, or None; whether it may be fetched is checked later, by the fetch."""
    if len(line) > MAX_URL_LENGTH:
        return f"the line has {len(line)} characters; a URL may have {MAX_URL_LENGTH}"
    if (problem := _odd_characters(line)) is not None:
        return problem
    scheme = re.match(r"[a-z][a-z0-9+.-]*:(?=//|[^0-9])", line, re.IGNORECASE)
    if scheme is None:
        return "a web address starts with http:// or https://; add https://"
    if not re.match(r"https?://[^/?#]", line, re.IGNORECASE):
        return "only web addresses such as https://example.org/cat.jpg are fetched"
    return None


def _short(line: str) -> str:
    return line if len(line) <= 200 else f"{line[:199]}…"
