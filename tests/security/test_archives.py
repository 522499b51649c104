"""Zips made to mislead or to explode: every member is an image source or a rejection, within the limits."""

import io
import struct
import zipfile
import zlib

import pytest

from clipdemo.errors import ClipdemoError
from clipdemo.images import sources
from clipdemo.images.sources import MAX_NAME, Source
from clipdemo.limits import Limits
from clipdemo.types import Rejected
from tests.security.fuzz_tables import fuzz

LIMITS = Limits(images=5, file_bytes=1_000_000)


def entry(name, *, offset=0, packed=4, size=4, crc=0, method=0, flags=0x800, extra=b""):
    """One entry of the central directory."""
    name = name if isinstance(name, bytes) else name.encode()
    fixed = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\x01\x02", 20, 20, flags, method, 0, 33, crc, packed, size,
        len(name), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return fixed + name + extra


def local(name, data, *, size=None, method=0, flags=0x800):
    """One member with its header."""
    name = name if isinstance(name, bytes) else name.encode()
    packed = zlib.compress(data, 9)[2:-4] if method else data
    size = len(data) if size is None else size
    fixed = struct.pack(
        "<4sHHHHHIIIHH",
        b"PK\x03\x04", 20, flags, method, 0, 33, zlib.crc32(data), len(packed), size, len(name), 0,
    )  # fmt: skip
    return fixed + name + packed


def zipped(members, entries, count=None):
    """Members, a directory, and an end that says how many entries the directory has."""
    directory = b"".join(entries)
    count = len(entries) & 0xFFFF if count is None else count
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(members), 0)
    return members + directory + end


def expanded(data, limits=LIMITS):
    return list(sources.expand("t.zip", data, "upload", limits))


def outcome(data, limits=LIMITS):
    """Bytes of each member, or the reason why there are none."""
    found = []
    for item in expanded(data, limits):
        if isinstance(item, Rejected):
            found.append(item.reason)
            continue
        try:
            found.append(item.read())
        except ClipdemoError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", ["", ".", "./.", "././"])
def test_a_member_without_a_name_is_refused_and_the_others_are_read(name):
    members = local(name, b"data") + local("b", b"data")
    crc = zlib.crc32(b"data")
    entries = [entry(name, crc=crc), entry("b", offset=len(local(name, b"data")), crc=crc)]
    first, *others = outcome(zipped(members, entries))
    if name == "":
        assert first == "its path has 0 characters; rename it"
    assert [first, *others][-1] == b"data"


@pytest.mark.parametrize("letters", ["a" * 65_535, "\x1b]0;pwned\x07\x9b31m\r\u202e" * 3_000])
def test_a_name_of_65535_bytes_is_refused_with_a_sentence(letters):
    name = letters.encode()[:65_535].decode(errors="ignore")
    rejected, fine = expanded(
        zipped(local(name, b"data") + local("b", b"data"), [entry(name), entry("b", offset=65_000)])
    )
    assert "characters; rename it" in rejected.reason
    assert len(rejected.name) <= MAX_NAME + len("t.zip/")
    assert isinstance(fine, Source)


def test_entries_that_share_their_data_unpack_to_a_bounded_total():
    """2,000 entries lead to the same megabyte of zeros."""
    zeros = bytes(1_000_000)
    members = local("0", zeros, method=8)
    one = {"packed": len(members) - 31, "size": len(zeros), "crc": zlib.crc32(zeros), "method": 8}
    data = zipped(members, [entry("0", **one)] * 2_000)
    unpacked = [part for part in outcome(data, Limits(images=20, file_bytes=1_000_000)) if part == zeros]
    assert 0 < len(unpacked) <= 20
    assert "unpacks to more than" in outcome(data, Limits(images=20, file_bytes=1_000_000))[-1]


@pytest.mark.parametrize(
    ("claimed", "words"), [(10, "damaged inside the zip"), (1_000_001, "1,000,001 bytes unpacked")]
)
def test_a_size_that_lies_is_never_exceeded(claimed, words):
    zeros = bytes(3_000_000)
    members = local("0", zeros, size=claimed, method=8)
    entries = [
        entry("0", packed=len(members) - 31, size=claimed, crc=zlib.crc32(zeros), method=8),
    ]
    assert words in outcome(zipped(members, entries))[0]


@pytest.mark.parametrize(
    ("size", "offset"), [(2**63, 0), (2**64 - 1, 0), (4, 2**63), (4, 2**64 - 1), (0, 2**40)]
)
def test_numbers_of_64_bits_are_refused(size, offset):
    extra = struct.pack("<HHQQQ", 1, 24, size, 4, offset)
    where = {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
    (reason,) = outcome(zipped(local("a", b"data"), [entry("a", extra=extra, **where)]))
    assert isinstance(reason, str)
    assert any(words in reason for words in ("bytes unpacked", "damaged inside", "broken or cut off"))


@pytest.mark.parametrize("count", [0, 1, 65_535])
def test_an_end_that_miscounts_the_entries_changes_nothing(count):
    crc = zlib.crc32(b"data")
    entries = [entry(str(number), crc=crc) for number in range(3)]
    assert outcome(zipped(local("0", b"data"), entries[:1], count)) == [b"data"]
    assert len(outcome(zipped(local("0", b"data"), entries, count))) == 3


def test_more_than_65535_entries_are_refused_before_they_are_parsed():
    data = zipped(local("0", b"data"), [entry("0")] * 70_000)
    assert outcome(data) == ["the zip contains 70,000 files; the limit is 2,000; split it"]


def test_a_zip_inside_a_zip_is_refused_like_one_that_contains_itself():
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a", b"data")
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
    assert outcome(outer.getvalue()) == ["it is a zip inside the zip; unpack it and add its images"]
    # A quine unpacks to itself, which begins as every zip does; so does this entry, whose data is its header.
    header = local("a", b"")
    data = zipped(header, [entry("a", packed=31, size=31, crc=zlib.crc32(header), offset=0)])
    assert all(isinstance(part, str) for part in outcome(data))


def test_mutants_of_zips_are_read_or_refused():
    report = fuzz("zip", 500)
    assert sum(report.verdicts.values()) == 500
    assert not report.findings
