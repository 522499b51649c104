"""Image files that once took gigabytes or minutes; each costs a worker little, and the server nothing."""

import io
import os
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from clipdemo.errors import ImageError, ImageTooLargeError
from clipdemo.images import pool, sources
from clipdemo.images.structure import MAX_SCANS, MAX_TIFF_VALUES
from clipdemo.limits import Limits
from clipdemo.types import Rejected
from tests.security.fuzz_images import fuzz

LIMITS = Limits()


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(*fields, tail=b""):
    """A little-endian TIFF of one grey band; ``fields`` are (tag, count, value), all of type LONG."""
    common = [(258, 1, 8), (262, 1, 1), (277, 1, 1)]
    entries = sorted([*common, *fields])
    head = b"II" + struct.pack("<HIH", 42, 8, len(entries))
    body = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
    return head + body + bytes(4) + tail


def one_row_strips(count):
    offset = 10 + 12 * 9 + 4
    table = struct.pack("<I", 8) * count
    return tiff(
        (256, 1, 10), (257, 1, count), (259, 1, 1), (273, count, offset), (278, 1, 1), (279, count, offset),
        tail=table,
    )  # fmt: skip


def one_tile(side):
    sizes = [(256, 1, 10), (257, 1, 10), (259, 1, 8), (322, 1, side), (323, 1, side)]
    return tiff(*sizes, (324, 1, 8), (325, 1, 100), tail=zlib.compress(bytes(1_000)))


def small_tiles(count):
    offset, side = 10 + 12 * 10 + 4, 2 * round(count**0.5)
    sizes = [(256, 1, side), (257, 1, side), (259, 1, 1), (322, 1, 2), (323, 1, 2)]
    return tiff(*sizes, (324, count, offset), (325, count, offset), tail=struct.pack("<I", 8) * count)


def lying_avif(side):
    """An AVIF of ``side`` x ``side`` pixels that declares 64 x 64."""
    data = bytearray(saved(Image.new("RGB", (side, side)), "AVIF", speed=10, quality=1))
    at = data.find(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 64)
    return bytes(data)


def empty_webp(side):
    body = b"\x2f" + struct.pack("<I", side - 1 | side - 1 << 14) + bytes(9)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def scans(count):
    plain = saved(Image.linear_gradient("L").convert("RGB"), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * count + plain[-2:]


def exif_segments(count):
    plain = saved(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff\xe1\0\x09Exif\0\0A" * count + plain[2:]


ATTACKS = {
    "4 million strips of one row": lambda: one_row_strips(4_000_000),
    "as many strips as are allowed": lambda: one_row_strips(MAX_TIFF_VALUES),
    "2 x 2 tiles": lambda: small_tiles(1_000_000),
    "a tile of 46,000 x 46,000 pixels": lambda: one_tile(46_000),
    "a tile of 7,000 x 7,000 pixels": lambda: one_tile(7_000),
    "an AVIF that is larger than it says": lambda: lying_avif(8_000),
    "a WebP of 34 bytes and 50 megapixels": lambda: empty_webp(7_071),
    "5,000 scans": lambda: scans(5_000),
    "as many scans as are allowed": lambda: scans(MAX_SCANS - 20),
    "a million Exif segments": lambda: exif_segments(1_000_000),
    "as many Exif segments as are allowed": lambda: exif_segments(999),
}


@pytest.fixture
def fresh_pool(monkeypatch):
    """A pool of new workers, so that their peak memory is that of the test's images."""
    fresh = pool._Pool()
    monkeypatch.setattr(pool, "_POOL", fresh)
    yield fresh
    fresh.close()


def peak_bytes(workers):
    fields = (Path(f"/proc/{each.process.pid}/status").read_text("ascii") for each in workers._alive)
    return max((1024 * int(text.split("VmHWM:")[1].split()[0]) for text in fields), default=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_takes_a_worker_little_memory(make, fresh_pool):
    data = make()
    with suppress(ImageError):
        pool.decode_image(data, "attack", limits=LIMITS)
    assert peak_bytes(fresh_pool) < 500_000_000


def test_a_busy_worker_runs_out_of_processor_time(fresh_pool):
    photo = saved(Image.linear_gradient("L"), "PNG")
    pool.decode_image(photo, "x")
    (worker,) = fresh_pool._alive
    os.kill(worker.process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode_image, photo, "x")
        for _ in range(600):
            if worker.tasks == 2:
                break
            time.sleep(0.05)
        os.kill(worker.process.pid, signal.SIGXCPU)  # what the system sends at the limit
        os.kill(worker.process.pid, signal.SIGCONT)
        with pytest.raises(ImageTooLargeError, match="takes far longer"):
            waiting.result(timeout=60)
    assert pool.decode_image(photo, "x").width == 256


def test_one_attack_does_not_stop_the_others():
    good = saved(Image.linear_gradient("L"), "PNG")
    files = [
        ("a", good),
        ("b", empty_webp(7_071)),
        ("c", exif_segments(5_000)),
        ("d", lying_avif(6_000)),
        ("e", good),
    ]
    loaded = list(sources.load([sources.from_bytes(name, data, "upload") for name, data in files], LIMITS))
    assert [isinstance(each, Rejected) for each in loaded] == [False, True, True, True, False]


def test_mutants_of_every_format_are_images_or_errors_of_ours(tmp_path):
    verdicts, slowest, findings = fuzz(2_000, tmp_path)
    assert not findings
    assert sum(verdicts.values()) == 2_000
    assert verdicts["image"] > 100
    assert slowest < 30  # a hang, on any machine
