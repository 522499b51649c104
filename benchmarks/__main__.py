"""clipdemo beside what a user would otherwise pick: ``python -m benchmarks [task ...]``.

Needs the development requirements. Writes ``results.md`` and ``results.json``; figures, never verdicts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import tasks
from benchmarks.checkpoint import save_checkpoint
from benchmarks.machine import machine
from benchmarks.steps import ALTERNATIVES, EMBEDDED, OWN
from benchmarks.table import write
from benchmarks.worker import Worker, WorkerError


def main() -> None:
    """Measure, print and write."""
    given = _arguments()
    about, started = machine(), time.perf_counter()
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = save_checkpoint(Path(scratch), tiny=given.quick)
        try:
            for name in [OWN, *ALTERNATIVES, EMBEDDED]:
                workers[name] = Worker(name, checkpoint, given.open_clip if name == "open_clip" else None)
            for name, worker in list(workers.items()):
                try:
                    worker.wait()
                except WorkerError as error:
                    failed[name] = str(error)[:200]
                    workers.pop(name).close()
            size = tasks.QUICK if given.quick else tasks.Size()
            chosen = {"repeats": given.repeats, "rows": given.rows}
            size = replace(size, **{name: value for name, value in chosen.items() if value})
            lines = tasks.run(tasks.Bench(size, workers, failed), given.tasks or list(tasks.TASKS))
        finally:
            for worker in workers.values():
                worker.close()
    about["model"] = (
        "a toy, so no figure means anything" if given.quick else "ViT-B/32, random weights, float32"
    )
    about["seconds of the whole run"] = f"{time.perf_counter() - started:.0f}"
    print(write(given.output, lines, about, list(ALTERNATIVES)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", metavar="task", help=f"of {', '.join(tasks.TASKS)}; all unless named"
    )
    parser.add_argument("--quick", action="store_true", help="a toy model and few items, to see that it runs")
    parser.add_argument("--repeats", type=int, help="of every task; 3 unless told")
    parser.add_argument("--rows", type=int, help="of the pair table; 2,000 unless told")
    parser.add_argument(
        "--open-clip", type=Path, help="a folder that holds open_clip, where it is not installed"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of the results")
    given = parser.parse_args()
    unknown = set(given.tasks) - set(tasks.TASKS)
    if unknown:
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    return given


if __name__ == "__main__":
    main()
