"""Decoding in worker processes against the same decoder in threads of this process, in turns.

``python -m benchmarks.decoding [REPEATS]`` prints images per second of both, and their ratio.
"""

from __future__ import annotations

import sys
import time
from statistics import median

from benchmarks.machine import machine
from benchmarks.photographs import ONE_MEGAPIXEL, SMALL, TWELVE_MEGAPIXELS, photographs
from clipdemo.images import decode, pool, sources
from clipdemo.images.sources import Decode
from clipdemo.limits import Limits

COUNTS = {SMALL: 200, ONE_MEGAPIXEL: 100, TWELVE_MEGAPIXELS: 24}
CONTENDERS: dict[str, Decode] = {"workers": pool.decode_image, "threads": decode.decode_image}


def rate(files: list[bytes], decoder: Decode) -> float:
    """Images per second, through the same two threads that an upload uses."""
    named = [sources.from_bytes(str(number), data, "upload") for number, data in enumerate(files)]
    started = time.perf_counter()
    for _ in sources.load(named, Limits(), decode=decoder):
        pass
    return len(files) / (time.perf_counter() - started)


def main(repeats: int) -> None:
    """Print one line for each size of photograph."""
    print(machine()["processor"], machine()["cores"], "cores")
    for size, count in COUNTS.items():
        files = photographs(count, size)
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for turn in range(repeats + 1):
            for name, decoder in CONTENDERS.items():
                rates[name].append(rate(files, decoder))
                if not turn:
                    rates[name].clear()  # starts the workers
        workers, threads = (median(rates[name]) for name in CONTENDERS)
        print(f"{size}: {workers:.0f}/s in workers, {threads:.0f}/s in threads: {workers / threads:.2f} x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
