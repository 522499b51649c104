"""Simulates twenty visitors who change captions and checkpoints: ``python -m benchmarks.twenty_sessions``.

Needs the development requirements. Starts a server with the embedded model and two tiny checkpoints, and
sends it the sessions of the tests, which check every grid. Prints times, errors and the server's peak memory
(Linux only).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.first_visit import resident, say
from benchmarks.machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # first_visit adds tests/e2e

from crowd import CHANGES, MEMORY_MB, VISITORS, crowded
from tiny_checkpoints import save_colour_clip, save_tiny_siglip


def main() -> None:
    """Measure and print the figures."""
    for name, value in machine().items():
        print(f"{name:22} {value}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clip = save_colour_clip(folder / "colour-clip")
        siglip = save_tiny_siglip(folder / "tiny-siglip")
        log = folder / "log"
        with crowded(clip, siglip, log) as (address, send):
            started = time.perf_counter()
            for title, visits in (("cold server", send()), ("again, warm server", send())):
                print(f"\n{title}: {VISITORS} visitors, {CHANGES} changes each, {MEMORY_MB} MB allowed")
                times("opening the link to grid", [visit.opening for visit in visits])
                times("new captions to grid", [seconds for visit in visits for seconds in visit.captions])
                times("new checkpoint to grid", [seconds for visit in visits for seconds in visit.switches])
                changes = [seconds for visit in visits for seconds in (*visit.captions, *visit.switches)]
                times("any change to grid", changes)
                say("wrong grids", sum(len(visit.wrong) for visit in visits), "")
                say("errors", sum(len(visit.errors) for visit in visits), "")
            say("both runs together", time.perf_counter() - started)
            say("server memory, peak, MB", resident(address, "VmHWM"), "")
            say("server memory, at the end, MB", resident(address), "")
        print(f"server log:\n{log.read_text()}")


def times(label: str, seconds: list[float]) -> None:
    """Print median, 95th percentile and maximum; nothing without times."""
    if not seconds:
        return
    for name, percent in (("p50", 50), ("p95", 95), ("longest", 100)):
        say(f"{label}, {name} of {len(seconds)}", float(np.percentile(seconds, percent)))


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
