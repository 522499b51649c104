"""Images are decoded in worker processes, whose end is a verdict on one image and nothing else."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdemo.errors import ImageError, ImageTooLargeError, NotAnImageError
from clipdemo.images import decode, pool
from clipdemo.limits import Limits
from clipdemo.view import TowerView

READY = b'{"ready": true}\n'


def saved(kind="JPEG", size=(640, 480), **options):
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 30 seconds")


def same(one, two):
    facts = ("name", "sha256", "thumbnail", "width", "height", "source")
    return one.image == two.image and all(getattr(one, fact) == getattr(two, fact) for fact in facts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_the_item_is_the_one_that_is_decoded_here(kind):
    data = saved(kind)
    item = pool.decode_image(data, "a/b.x", source="zip")
    assert same(item, decode.decode_image(data, "a/b.x", source="zip"))
    plain = pool.decode_image(data, "x", thumbnail=False)
    assert plain.thumbnail == b""
    assert plain.image == item.image


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4", saved()[:300], "text"])
def test_a_refusal_says_what_it_says_here(data):
    with pytest.raises(ImageError) as here:
        decode.decode_image(data, "x")
    with pytest.raises(ImageError) as there:
        pool.decode_image(data, "x")
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_limits_apply():
    with pytest.raises(ImageTooLargeError, match="the limit is 100,000"):
        pool.decode_image(saved(), "x", limits=Limits(pixels=100_000))
    with pytest.raises(ImageTooLargeError, match="the limit is 1,000"):
        pool.decode_image(saved(), "x", limits=Limits(file_bytes=1_000))


def test_a_picture_at_the_limit_is_decoded():
    noise = np.random.default_rng(0).integers(0, 255, (500, 700, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((7_000, 5_000), Image.Resampling.NEAREST).save(
        buffer, "WEBP", lossless=True, quality=0, method=0
    )
    item = pool.decode_image(buffer.getvalue(), "x", limits=Limits(pixels=35_000_000))
    assert (item.width, item.height) == (7_000, 5_000)


def test_many_threads_share_the_workers():
    files = [saved(size=(100 + index, 80)) for index in range(40)]
    with ThreadPoolExecutor(12) as threads:
        items = list(threads.map(lambda data: pool.decode_image(data, "x"), files))
    assert [item.width for item in items] == [100 + index for index in range(40)]


def worker_ids():
    return {worker.process.pid for worker in pool._POOL._alive}


def test_a_worker_that_died_is_replaced():
    pool.decode_image(saved(), "x")
    for pid in worker_ids():
        os.kill(pid, signal.SIGKILL)
    for _ in range(pool.WORKERS + 1):
        try:
            assert pool.decode_image(saved(), "x").width == 640
        except NotAnImageError:  # the signal arrived while the task was sent
            continue
    assert pool.decode_image(saved(), "x").width == 640


def test_a_worker_that_does_not_answer_is_ended(monkeypatch):
    pool.decode_image(saved(), "x")
    monkeypatch.setattr(pool, "DEADLINE_SECONDS", 0.5)
    for pid in worker_ids():
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ImageTooLargeError, match="takes far longer"):
        pool.decode_image(saved(), "x")
    monkeypatch.undo()
    for pid in worker_ids():
        os.kill(pid, signal.SIGCONT)
    assert pool.decode_image(saved(), "x").width == 640


def test_workers_are_replaced_after_many_tasks(monkeypatch):
    pool.decode_image(saved(), "x")
    before = worker_ids()
    monkeypatch.setattr(pool, "TASKS", 0)
    pool.decode_image(saved(), "x")
    assert worker_ids() != before


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        b"[]\n",
        b"[" * 4_000 + b"\n",
        b'{"width": 1}\n',
        b'{"width": -1, "height": -1, "copy": [1, 1], "thumbnail": 0}\n',
        b'{"width": 9000000, "height": 9000000, "copy": [1, 1], "thumbnail": 0}\nxyz',
        b'{"width": 1, "height": 1, "copy": [90000, 90000], "thumbnail": 0}\n',
        b'{"width": 1, "height": 1, "copy": [1, 1], "thumbnail": 90000000}\n',
        b'{"width": 1, "height": 1, "copy": ["a", 1], "thumbnail": 0}\n',
        b'{"width": 1, "height": 1, "copy": [2, 2], "thumbnail": 0}\ncut off',
        b'{"width": 640, "height": 480, "copy": [223, 224], "thumbnail": 0}\n' + bytes(3 * 223 * 224),
        b'{"need": "all"}\n',
        b'{"need": 1}\n{"need": 1}\n{"need": 1}\n',
    ],
)
def test_a_worker_that_was_taken_over_is_not_believed(answer, monkeypatch, tmp_path):
    (tmp_path / "liar.py").write_text(
        f"import sys\nsys.stdout.buffer.write({READY + answer!r})\nsys.stdout.flush()\n"
        "sys.stdin.buffer.read()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    start = pool.child.start
    monkeypatch.setattr(pool.child, "start", lambda _: start("liar"))
    monkeypatch.setattr(pool, "DEADLINE_SECONDS", 2.0)
    fresh = pool._Pool()
    with pytest.raises(ImageError):
        fresh.decode(saved(), Limits(), thumbnail=True, view=TowerView(224, 3, (224, 224)))
    fresh.close()


def test_an_interrupt_in_the_middle_of_an_answer_leaves_no_rest_of_it(monkeypatch):
    fresh = pool._Pool()
    fresh.decode(saved(size=(30, 20)), Limits(), thumbnail=True)
    (worker,) = fresh._alive
    read = worker._read

    def interrupted(count):
        read(min(count, 10))
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fresh.decode(saved(size=(300, 200)), Limits(), thumbnail=True)
    assert fresh.decode(saved(size=(31, 21)), Limits(), thumbnail=True).width == 31
    fresh.close()


def test_a_worker_that_does_not_start_is_not_blamed_on_the_image(monkeypatch, caplog):
    start = pool.child.start
    monkeypatch.setattr(pool.child, "start", lambda _: start("no_such_module"))
    fresh = pool._Pool()
    with pytest.raises(ImageError, match="does not start on this machine"):
        fresh.decode(saved(), Limits(), thumbnail=True)
    assert "python -m clipdemo.images.worker" in caplog.text
    monkeypatch.undo()
    assert fresh.decode(saved(), Limits(), thumbnail=True).width == 640
    fresh.close()


def test_a_large_file_follows_a_small_one():
    noise = np.random.default_rng(0).integers(0, 255, (3_600, 3_600, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "BMP")
    big = buffer.getvalue() + bytes(80_000_000)
    fresh, limits = pool._Pool(), Limits(file_bytes=200_000_000)
    fresh.decode(saved(), limits, thumbnail=False)
    assert fresh.decode(big, limits, thumbnail=False).width == 3_600
    fresh.close()


def test_a_closed_pool_ends_its_workers_and_refuses_work():
    fresh = pool._Pool()
    fresh.decode(saved(), Limits(), thumbnail=False)
    (worker,) = fresh._alive
    fresh.close()
    assert worker.process.returncode is not None
    with pytest.raises(ImageError, match="stopping"):
        fresh.decode(saved(), Limits(), thumbnail=False)


def test_closing_ends_a_worker_in_the_middle_of_an_image():
    fresh = pool._Pool()
    fresh.decode(saved(), Limits(), thumbnail=False)
    (worker,) = fresh._alive
    os.kill(worker.process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(fresh.decode, saved(), Limits(), thumbnail=False)
        wait_until(lambda: worker.tasks == 2)
        fresh.close()
        with pytest.raises(ImageError):
            waiting.result(timeout=30)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are read from /proc")
def test_workers_end_with_their_parent():
    code = (
        "import io, os, signal\nfrom PIL import Image\nfrom clipdemo.images import pool\n"
        "data = io.BytesIO()\nImage.new('RGB', (9, 9)).save(data, 'PNG')\n"
        "pool.decode_image(data.getvalue(), 'x')\n"
        "(worker,) = pool._POOL._alive\nprint(worker.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as status:
                if "State:\tZ" in status.read():
                    return
        except FileNotFoundError:
            return
        threading.Event().wait(0.1)
    raise AssertionError("the worker is still there")


def png_bomb(side):
    """A PNG that declares a large picture and holds all of its zeros, in a few kilobytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes((side * 3 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_within_the_limits_is_an_image():
    assert pool.decode_image(png_bomb(3_000), "x").width == 3_000
