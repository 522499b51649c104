"""Zips are opened carefully, and images come one at a time, in order, whatever their neighbours do."""

import gc
import io
import struct
import threading
import time
import zipfile
from collections.abc import Iterator

import pytest
from PIL import Image

from clipdemo import sources as sources_module
from clipdemo.errors import ArchiveError, ClipdemoError, UnreachableURLError
from clipdemo.limits import Limits
from clipdemo.sources import MAX_ENTRIES, Source, expand, from_bytes, load
from clipdemo.types import ImageItem, Rejected

LIMITS = Limits()


def png(colour="red", size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def make_zip(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, not as ZipInfo would tidy it
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
    at = data.find(signature)
    while at >= 0:
        changed[at + offset : at + offset + len(new)] = new
        at = data.find(signature, at + 1)
    return bytes(changed)


LOCAL, DIRECTORY = b"PK\x03\x04", b"PK\x01\x02"


def test_a_file_that_is_no_zip_is_its_own_source():
    (source,) = expand("a.png", b"data", "camera", LIMITS)
    assert (source.name, source.kind, source.read()) == ("a.png", "camera", b"data")


def test_a_text_that_starts_with_pk_is_no_zip():
    (source,) = expand("a.txt", b"PK is short for park", "upload", LIMITS)
    assert isinstance(source, Source)


def test_a_zip_is_told_by_its_content_and_gives_its_members():
    data = make_zip([("one.png", png()), ("in/two.png", png("blue"))], zipfile.ZIP_DEFLATED)
    found = list(expand("holiday.jpg", data, "upload", LIMITS))
    assert names(found) == ["holiday.jpg/one.png", "holiday.jpg/in/two.png"]
    assert [one.kind for one in found] == ["zip", "zip"]
    assert [one.read() for one in found] == [png(), png("blue")]


@pytest.mark.parametrize(
    "path",
    ["../up.png", "in/../../up.png", "/etc/a.png", "C:/a.png", "c:a.png", "in\\a.png", "..\\a.png"],
)
def test_a_path_that_leads_out_is_refused_and_the_others_go_on(path):
    refused, kept = expanded(make_zip([(path, png()), ("b.png", png())]))
    assert isinstance(refused, Rejected)
    assert "leads out of the zip" in refused.reason
    assert isinstance(kept, Source)


def test_a_path_that_hides_its_end_behind_a_nul_is_refused():
    data = make_zip([("a.pngX.exe", png())]).replace(b"a.pngX.exe", b"a.png\0.exe")
    assert "hides where it leads" in only_rejected(expanded(data)).reason


@pytest.mark.parametrize("path", ["../.secret", "..\\.secret", "/.secret", "__MACOSX/../../a.png"])
def test_an_unsafe_path_is_not_passed_over_as_clutter(path):
    assert "leads out" in only_rejected(expanded(make_zip([(path, b"")]))).reason


def test_clutter_of_operating_systems_is_skipped_in_silence():
    clutter = ["__MACOSX/._a.png", "in/__MACOSX/b.png", ".DS_Store", "in/.DS_Store", ".git/a.png"]
    clutter += ["Thumbs.db", "in/thumbs.db", "in/desktop.ini", "in/"]
    found = expanded(make_zip([(path, b"") for path in clutter] + [("./a.png", png())]))
    assert names(found) == ["a.zip/./a.png"]


@pytest.mark.parametrize("members", [[], [("in/", b"")], [(".DS_Store", b"x")]])
def test_a_zip_with_nothing_in_it_says_so(members):
    assert "holds no files" in only_rejected(expanded(make_zip(members))).reason


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


def test_a_member_that_declares_too_few_bytes_is_unpacked_no_further_than_that(monkeypatch):
    data = make_zip([("bomb.png", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    data = after_signature(data, DIRECTORY, 24, struct.pack("<I", 10))
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: (asked.append(n), read(self, n))[1])
    (source,) = expanded(data)
    with pytest.raises(ArchiveError, match="damaged"):
        source.read()
    assert asked == [11]


def test_a_small_zip_that_unpacks_to_a_mountain_is_cut_off():
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
    at = data.index(b"bad.png") + 7
    data = data[: at + 20] + bytes(byte ^ 0x55 for byte in data[at + 20 : at + 60]) + data[at + 60 :]
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
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *given: opened.append(given))
    assert len(expanded(data)) == 2
    assert opened == []


# --- load ------------------------------------------------------------------------------------


def counting(count, begun, delay=lambda i: 0.0):
    """Sources that note in ``begun`` when they are read."""

    def make(index):
        def read():
            begun.append(index)
            time.sleep(delay(index))
            return png(size=(index + 1, 4))

        return Source(f"{index}.png", "upload", read)

    return (make(index) for index in range(count))


def test_one_bad_image_does_not_stop_the_others():
    given = [
        from_bytes("a.png", png(), "upload"),
        from_bytes("b.png", b"hello", "sample"),
        from_bytes("c.png", png(), "upload"),
    ]
    first, second, third = load(given, LIMITS)
    assert isinstance(first, ImageItem)
    assert isinstance(third, ImageItem)
    assert isinstance(second, Rejected)
    assert (second.name, second.verdict, second.source) == ("b.png", "not an image", "sample")
    assert "text" in second.reason


def test_items_carry_the_kind_of_their_source():
    (item,) = load([from_bytes("a.png", png(), "camera")], LIMITS)
    assert (item.name, item.source) == ("a.png", "camera")


def test_rejections_pass_through_in_their_place():
    rejected = Rejected("z", "too many files", "because", "zip")
    given = [from_bytes("a.png", png(), "x"), rejected, from_bytes("b.png", png(), "x")]
    assert list(load(given, LIMITS))[1] is rejected


def test_an_error_while_reading_becomes_a_rejection_with_its_own_words():
    def read():
        raise UnreachableURLError("host answered with status 404")

    (rejected,) = load([Source("http://host/a", "url", read)], LIMITS)
    assert rejected == Rejected("http://host/a", "not reachable", "host answered with status 404", "url")


def test_the_limits_reach_the_decoder():
    (rejected,) = load([from_bytes("a.png", png(), "x")], Limits(pixels=47))
    assert rejected.verdict == "too large"


def test_a_mistake_of_ours_is_not_hidden():
    def read():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load([Source("a", "x", read)], LIMITS))


def test_results_come_in_input_order_though_the_first_is_slowest():
    begun = []
    found = load(counting(12, begun, lambda i: 0.02 * (3 - i % 4)), LIMITS, workers=4)
    assert [item.width for item in found] == list(range(1, 13))


def test_nothing_is_read_before_the_first_is_asked_for():
    begun = []
    found = load(counting(3, begun), LIMITS)
    time.sleep(0.02)
    assert begun == []
    next(found)
    found.close()


def test_no_more_is_begun_than_workers_and_look_ahead():
    begun = []
    found = load(counting(50, begun), LIMITS, workers=2, look_ahead=3)
    for taken in range(1, 6):
        next(found)
        time.sleep(0.03)
        assert len(begun) <= taken - 1 + 5
    found.close()


def test_as_many_threads_work_as_asked_for():
    together = threading.Barrier(6, timeout=10)

    def read():
        together.wait()
        return png()

    found = load([Source("a", "url", read)] * 6, LIMITS, workers=6, look_ahead=0)
    assert sum(isinstance(item, ImageItem) for item in found) == 6


def wait_until_no_loader_threads():
    deadline = time.monotonic() + 5
    while any(t.name.startswith("clipdemo-load") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "loader threads are still alive"
        time.sleep(0.01)


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_leaving_early_does_not_wait_and_begins_nothing_more(leave):
    release, begun = threading.Event(), []

    def make(index):
        def read():
            begun.append(index)
            if index:
                release.wait(5)
            return png()

        return Source(f"{index}", "url", read)

    found = load((make(i) for i in range(40)), LIMITS, workers=2, look_ahead=10)
    next(found)
    started = time.monotonic()
    if leave == "close":
        found.close()
    else:
        del found
        gc.collect()
    assert time.monotonic() - started < 2
    release.set()
    wait_until_no_loader_threads()
    assert len(begun) <= 3  # the first, and one in each worker's hands


def test_threads_end_when_all_is_loaded():
    list(load(counting(5, []), LIMITS))
    wait_until_no_loader_threads()


def test_a_failing_list_of_sources_fails_loudly_and_leaves_no_threads():
    def failing() -> Iterator[Source]:
        yield from_bytes("a", png(), "x")
        raise RuntimeError("list broke")

    with pytest.raises(RuntimeError, match="list broke"):
        list(load(failing(), LIMITS))
    wait_until_no_loader_threads()


def test_a_whole_zip_is_loaded_with_good_and_bad_side_by_side():
    data = make_zip([("a.png", png()), ("notes.txt", b"words"), ("../x.png", png())])
    found = list(load(expand("a.zip", data, "upload", LIMITS), LIMITS))
    assert [type(one) for one in found] == [ImageItem, Rejected, Rejected]
    assert found[0].source == "zip"
    assert issubclass(ArchiveError, ClipdemoError)
