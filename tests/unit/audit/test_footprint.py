import threading
import time

import pytest

from clipdemo.audit.footprint import Footprint, memory_text, peak_resident_bytes


def test_stages_add_up_over_threads():
    footprint = Footprint()
    work = footprint.timed("decode", lambda: time.sleep(0.01))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stage,) = footprint.stages
    assert (stage.name, stage.items) == ("decode", 4)
    assert stage.seconds >= 0.04
    assert stage.rate == pytest.approx(4 / stage.seconds)


def test_a_failing_block_is_timed_too():
    footprint = Footprint()
    with pytest.raises(ValueError, match="no"), footprint.stage("fetch", 1):
        raise ValueError("no")
    assert footprint.stages[0].items == 1


def test_the_peak_covers_allocated_memory():
    before = peak_resident_bytes()
    held = bytearray(before + 50_000_000)
    for page in range(0, len(held), 4096):
        held[page] = 1
    assert peak_resident_bytes() >= before + 40_000_000


@pytest.mark.parametrize(
    ("resident", "gpu", "text"),
    [
        (1_234_500_000, None, "peak memory 1,234 MB"),
        (812_000_000, 340_000_000, "peak memory 812 MB, on the GPU 340 MB"),
        (None, None, "peak memory unknown"),
    ],
)
def test_peak_memory_as_text(resident, gpu, text):
    assert memory_text(resident, gpu) == text
