"""Sources are decoded in input order, and a bad one does not affect the others."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from pictures import png

from clipdemo.errors import UnreachableURLError
from clipdemo.images.sources import Source, from_bytes, load
from clipdemo.limits import Limits
from clipdemo.types import ImageItem, Rejected

LIMITS = Limits()


def counting(count, started, delay=lambda i: 0.0):
    """Sources that append their number to ``started`` when they are read."""

    def make(index):
        def read():
            started.append(index)
            time.sleep(delay(index))
            return png(size=(index + 1, 4))

        return Source(f"{index}.png", "upload", read)

    return (make(index) for index in range(count))


def test_one_bad_image_does_not_stop_the_others():
    listed = [
        from_bytes("a.png", png(), "upload"),
        from_bytes("b.png", b"hello", "sample"),
        from_bytes("c.png", png(), "upload"),
    ]
    first, second, third = load(listed, LIMITS)
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
    listed = [from_bytes("a.png", png(), "x"), rejected, from_bytes("b.png", png(), "x")]
    assert list(load(listed, LIMITS))[1] is rejected


def test_an_error_while_reading_becomes_a_rejection_with_its_message():
    def read():
        raise UnreachableURLError("host answered with status 404")

    (rejected,) = load([Source("http://host/a", "url", read)], LIMITS)
    assert rejected == Rejected("http://host/a", "not reachable", "host answered with status 404", "url")


def test_the_limits_reach_the_decoder():
    (rejected,) = load([from_bytes("a.png", png(), "x")], Limits(pixels=47))
    assert rejected.verdict == "too large"


def test_a_bug_is_not_hidden():
    def read():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load([Source("a", "x", read)], LIMITS))


def test_results_come_in_input_order_though_the_first_is_slowest():
    started = []
    results = load(counting(12, started, lambda i: 0.02 * (3 - i % 4)), LIMITS, workers=4)
    assert [item.width for item in results] == list(range(1, 13))


def test_nothing_is_read_before_the_first_is_asked_for():
    started = []
    results = load(counting(3, started), LIMITS)
    time.sleep(0.02)
    assert started == []
    next(results)
    results.close()


def test_no_more_sources_start_than_workers_and_look_ahead():
    started = []
    results = load(counting(50, started), LIMITS, workers=2, look_ahead=3)
    for taken in range(1, 6):
        next(results)
        time.sleep(0.03)
        assert len(started) <= taken - 1 + 5
    results.close()


def test_as_many_threads_work_as_asked_for():
    together = threading.Barrier(6, timeout=10)

    def read():
        together.wait()
        return png()

    results = load([Source("a", "url", read)] * 6, LIMITS, workers=6, look_ahead=0)
    assert sum(isinstance(item, ImageItem) for item in results) == 6


def wait_until_no_loader_threads():
    deadline = time.monotonic() + 5
    while any(t.name.startswith("clipdemo-load") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "loader threads are still alive"
        time.sleep(0.01)


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_leaving_early_does_not_wait_and_starts_nothing_more(leave):
    release, started, ended = threading.Event(), [], []

    def make(index):
        def read():
            started.append(index)
            if index:
                release.wait(60)
                ended.append(index)
            return png()

        return Source(f"{index}", "url", read)

    results = load((make(i) for i in range(40)), LIMITS, workers=2, look_ahead=10)
    next(results)
    if leave == "close":
        results.close()
    else:
        del results
        gc.collect()
    assert not ended  # leaving did not wait for them
    release.set()
    wait_until_no_loader_threads()
    assert len(started) <= 3  # the first, and one per worker


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


def test_a_caller_with_patience_gets_none_while_a_slow_source_is_read():
    go = threading.Event()

    def slow():
        go.wait(10)
        return png()

    results = load([Source("slow.png", "url", slow)], LIMITS, patience=0.01)
    assert next(results) is None
    assert next(results) is None
    go.set()
    assert [result.name for result in results if result is not None] == ["slow.png"]


def test_a_file_too_big_for_the_memory_does_not_stop_the_others():
    def hungry():
        raise MemoryError

    results = list(load([Source("big.png", "zip", hungry), from_bytes("a.png", png(), "zip")], LIMITS))
    assert isinstance(results[0], Rejected)
    assert results[1].name == "a.png"
