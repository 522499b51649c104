"""Zips are opened safely: path tricks and bombs are refused, and a bad member does not stop the others."""

import io
import struct
import threading
import time
import zipfile

import pytest
from pictures import png

from clipdemo.errors import ArchiveError, ClipdemoError
from clipdemo.images import sources as sources_module
from clipdemo.images.sources import MAX_ENTRIES, Source, expand, load
from clipdemo.limits import Limits
from clipdemo.types import ImageItem, Rejected

LIMITS = Limits()


def make_zip(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # unchanged; ZipInfo would clean it up
            archive.writestr(info, data, compression)
    return buffer.getvalue()


def names(found):
    return [one.name for one in found]


def expanded(data, limits=LIMITS):
    return list(expand("a.zip", data, "upload", limits))


def only_rejected(found):
    (one,) = found
    assert isinstance(one, Rejected)
    return one


def after_signature(data, signature, offset, new):
    """``data`` with bytes replaced at ``offset`` from every ``signature``."""
    changed = bytearray(data)
    start = data.find(signature)
    while start >= 0:
        changed[start + offset : start + offset + len(new)] = new
        start = data.find(signature, start + 1)
    return bytes(changed)


LOCAL, DIRECTORY = b"PK\x03\x04", b"PK\x01\x02"


def test_a_file_that_is_not_a_zip_is_one_source():
    (source,) = expand("a.png", b"data", "camera", LIMITS)
    assert (source.name, source.kind, source.read()) == ("a.png", "camera", b"data")


def test_a_text_that_starts_with_pk_is_not_a_zip():
    (source,) = expand("a.txt", b"PK is short for park", "upload", LIMITS)
    assert isinstance(source, Source)


def test_a_zip_is_recognised_by_its_content_and_yields_its_members():
    data = make_zip([("one.png", png()), ("in/two.png", png("blue"))], zipfile.ZIP_DEFLATED)
    found = list(expand("holiday.jpg", data, "upload", LIMITS))
    assert names(found) == ["holiday.jpg/one.png", "holiday.jpg/in/two.png"]
    assert [one.kind for one in found] == ["zip", "zip"]
    assert [one.read() for one in found] == [png(), png("blue")]


@pytest.mark.parametrize(
    "path",
    ["../up.png", "in/../../up.png", "/etc/a.png", "C:/a.png", "c:a.png", "in\\a.png", "..\\a.png"],
)
def test_a_path_that_leads_out_is_refused_and_the_others_are_kept(path):
    refused, kept = expanded(make_zip([(path, png()), ("b.png", png())]))
    assert isinstance(refused, Rejected)
    assert "leads out of the zip" in refused.reason
    assert isinstance(kept, Source)


def test_a_path_that_hides_its_end_behind_a_nul_is_refused():
    data = make_zip([("a.pngX.exe", png())]).replace(b"a.pngX.exe", b"a.png\0.exe")
    assert "hides where it leads" in only_rejected(expanded(data)).reason


@pytest.mark.parametrize("path", ["../.secret", "..\\.secret", "/.secret", "__MACOSX/../../a.png"])
def test_an_unsafe_path_is_refused_rather_than_skipped_as_clutter(path):
    assert "leads out" in only_rejected(expanded(make_zip([(path, b"")]))).reason


def test_clutter_of_operating_systems_is_skipped_in_silence():
    clutter = ["__MACOSX/._a.png", "in/__MACOSX/b.png", ".DS_Store", "in/.DS_Store", ".git/a.png"]
    clutter += ["Thumbs.db", "in/thumbs.db", "in/desktop.ini", "in/"]
    found = expanded(make_zip([(path, b"") for path in clutter] + [("./a.png", png())]))
    assert names(found) == ["a.zip/./a.png"]


@pytest.mark.parametrize("members", [[], [("in/", b"")], [(".DS_Store", b"x")]])
def test_a_zip_with_nothing_in_it_says_so(members):
    assert "the zip contains no files; add images to it" in only_rejected(expanded(make_zip(members))).reason


def test_an_encrypted_member_is_refused_with_what_to_do():
    data = make_zip([("a.png", png())])
    data = after_signature(data, LOCAL, 6, b"\x01")
    data = after_signature(data, DIRECTORY, 8, b"\x01")
    assert "without a password" in only_rejected(expanded(data)).reason


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(method):
    rejected = only_rejected(expanded(make_zip([("a.png", png())], method)))
    assert f"method {method}" in rejected.reason


def test_unknown_compression_is_refused():
    data = make_zip([("a.png", png())])
    data = after_signature(data, DIRECTORY, 10, struct.pack("<H", 99))
    assert "method 99" in only_rejected(expanded(data)).reason


def test_a_member_that_declares_too_many_bytes_is_too_large():
    limits = Limits(file_bytes=1_000)
    data = make_zip([("big.png", bytes(1_001)), ("fits.png", bytes(1_000))])
    rejected, source = expanded(data, limits)
    assert (rejected.name, rejected.verdict) == ("a.zip/big.png", "too large")
    assert "1,001" in rejected.reason
    assert "1,000" in rejected.reason
    assert len(source.read()) == 1_000


def test_a_member_is_unpacked_only_to_its_declared_size(monkeypatch):
    data = make_zip([("bomb.png", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    data = after_signature(data, DIRECTORY, 24, struct.pack("<I", 10))
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: (asked.append(n), read(self, n))[1])
    (source,) = expanded(data)
    with pytest.raises(ArchiveError, match="damaged"):
        source.read()
    assert asked == [11]


def test_a_zip_bomb_is_cut_off():
    limits = Limits(file_bytes=100_000)
    data = make_zip([(f"{i}.bmp", bytes(100_000)) for i in range(60)], zipfile.ZIP_DEFLATED)
    *found, last = expanded(data, limits)
    most = 10 * 100_000 + 100 * len(data)
    assert most < 60 * 100_000
    assert len(found) == most // 100_000
    assert all(isinstance(one, Source) for one in found)
    assert (last.name, last.verdict) == ("a.zip", "too large")
    assert f"{most:,}" in last.reason
    assert f"{len(found)}" in last.reason


def test_a_zip_never_unpacks_to_more_than_a_workspace_of_the_largest_files():
    data = make_zip([(f"{i}.png", bytes(1_000)) for i in range(5)])
    *found, last = expanded(data, Limits(images=3, file_bytes=1_000))
    assert [type(one) for one in found] == [Source] * 3
    assert "3,000 bytes" in last.reason


def test_too_many_files_are_refused_before_any_is_listed(monkeypatch):
    data = make_zip([(f"{i}.png", b"") for i in range(2_001)])
    monkeypatch.setattr(sources_module.zipfile, "ZipFile", None)  # would fail if it were opened
    rejected = only_rejected(expanded(data))
    assert (rejected.name, rejected.verdict) == ("a.zip", "too many files")
    assert "2,001" in rejected.reason
    assert "2,000" in rejected.reason


def test_as_many_files_as_the_limit_are_fine():
    data = make_zip([(f"{i}.png", b"") for i in range(2_000)])
    assert len(expanded(data)) == 2_000


def test_no_setting_allows_more_than_ten_thousand_files():
    data = DIRECTORY * (MAX_ENTRIES + 1)
    rejected = only_rejected(expanded(LOCAL + data, Limits(images=100_000)))
    assert rejected.verdict == "too many files"


def test_a_zip_inside_a_zip_is_refused_whatever_its_name():
    inner = make_zip([("a.png", png())])
    (source,) = expanded(make_zip([("inner.png", inner)]))
    with pytest.raises(ArchiveError, match="zip inside the zip"):
        source.read()


@pytest.mark.parametrize("cut", [4, 40, -5])
def test_a_cut_zip_gives_one_rejection_with_its_size(cut):
    data = make_zip([("a.png", png()), ("b.png", png())])[:cut]
    rejected = only_rejected(expanded(data))
    assert rejected.name == "a.zip"
    assert f"{len(data):,} bytes" in rejected.reason


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_does_not_stop_the_others(compression):
    data = make_zip([("bad.png", png(size=(90, 90))), ("good.png", png("blue"))], compression)
    start = data.index(b"bad.png") + 7
    data = (
        data[: start + 20] + bytes(byte ^ 0x55 for byte in data[start + 20 : start + 60]) + data[start + 60 :]
    )
    bad, good = load(expanded(data), LIMITS)
    assert isinstance(bad, Rejected)
    assert "damaged" in bad.reason
    assert isinstance(good, ImageItem)


def test_a_member_cut_off_inside_is_rejected():
    data = make_zip([("a.png", png())])
    data = after_signature(data, DIRECTORY, 20, struct.pack("<II", 10_000, 10_000))
    (source,) = expanded(data)
    with pytest.raises(ArchiveError, match="damaged"):
        source.read()


def test_two_members_of_one_name_both_count():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = make_zip([("a.png", png("red")), ("a.png", png("blue"))])
    assert [one.read() for one in expanded(data)] == [png("red"), png("blue")]


def test_members_are_unpacked_one_at_a_time_and_never_mixed(monkeypatch):
    members = [(f"{i}.bin", bytes([i]) * 100_000) for i in range(60)]
    at_work, read_member = threading.Lock(), zipfile.ZipExtFile.read

    def read_alone(self, n=-1):
        assert at_work.acquire(blocking=False), "two at once"
        time.sleep(0.001)
        try:
            return read_member(self, n)
        finally:
            at_work.release()

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read_alone)
    found = expanded(make_zip(members, zipfile.ZIP_DEFLATED))
    results = {}

    def read(index):
        results[index] = found[index].read()

    threads = [threading.Thread(target=read, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(60)] == [data for _, data in members]


def test_members_are_read_only_when_asked_for(monkeypatch):
    data = make_zip([("a.png", png()), ("b.png", png())])
    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *arguments: opened.append(arguments))
    assert len(expanded(data)) == 2
    assert opened == []


def test_a_zip_with_good_and_bad_members_is_loaded():
    data = make_zip([("a.png", png()), ("notes.txt", b"words"), ("../x.png", png())])
    found = list(load(expand("a.zip", data, "upload", LIMITS), LIMITS))
    assert [type(one) for one in found] == [ImageItem, Rejected, Rejected]
    assert found[0].source == "zip"
    assert issubclass(ArchiveError, ClipdemoError)
