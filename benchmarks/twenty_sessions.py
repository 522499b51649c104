"""Twenty visitors at once who change captions and checkpoints: ``python -m benchmarks.twenty_sessions``.

Needs the development requirements. Sends the crowd of the tests, which checks every grid, to a server of its own
with the embedded model and two tiny checkpoints; prints times, errors and the server's peak memory (Linux only).
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its e2e folder was added by first_visit

from crowd import CHANGES, MEMORY_MB, VISITORS, crowded
from tiny_checkpoints import save_colour_clip, save_tiny_siglip


def main() -> None:
    """Measure and print."""
    for name, value in machine().items():
        print(f"{name:22} {value}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clip = save_colour_clip(folder / "colour-clip")
        siglip = save_tiny_siglip(folder / "tiny-siglip")
        log = folder / "log"
        with crowded(clip, siglip, log) as (address, send):
            started = time.perf_counter()
            for title, visits in (("cold server", send()), ("the same again, warm", send())):
                print(f"\n{title}: {VISITORS} visitors, {CHANGES} changes each, {MEMORY_MB} MB allowed")
                times("opening the link to grid", [visit.opening for visit in visits])
                times("new captions to grid", [took for visit in visits for took in visit.captions])
                times("new checkpoint to grid", [took for visit in visits for took in visit.switches])
                every = [took for visit in visits for took in (*visit.captions, *visit.switches)]
                times("any change to grid", every)
                say("wrong grids", sum(len(visit.wrong) for visit in visits), "")
                say("errors", sum(len(visit.errors) for visit in visits), "")
            say("both, first to last", time.perf_counter() - started)
            say("server memory, peak, MB", resident(address, "VmHWM"), "")
            say("server memory, at the end, MB", resident(address), "")
        print(f"the server's log:\n{log.read_text()}")


def times(what: str, seconds: list[float]) -> None:
    """Three lines of the table: half of the times are below the first, 95 in a hundred below the second."""
    for name, share in (("p50", 50), ("p95", 95), ("longest", 100)) if seconds else ():
        say(f"{what}, {name} of {len(seconds)}", float(np.percentile(seconds, share)))


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
