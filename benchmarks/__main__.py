"""Measures clipdemo against what a user would otherwise pick: ``python -m benchmarks [task ...]``.

Needs the development requirements. Writes ``results.md`` and ``results.json``.
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
    """Measure, print and write the results."""
    arguments = _arguments()
    about = machine()
    started = time.perf_counter()
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = save_checkpoint(Path(scratch), tiny=arguments.quick)
        try:
            for name in [OWN, *ALTERNATIVES, EMBEDDED]:
                workers[name] = Worker(name, checkpoint, arguments.open_clip if name == "open_clip" else None)
            for name, worker in list(workers.items()):
                try:
                    worker.wait()
                except WorkerError as error:
                    failed[name] = str(error)[:200]
                    workers.pop(name).close()
            size = tasks.QUICK if arguments.quick else tasks.Size()
            overrides = {"repeats": arguments.repeats, "rows": arguments.rows}
            size = replace(size, **{name: value for name, value in overrides.items() if value})
            lines = tasks.run(tasks.Bench(size, workers, failed), arguments.tasks or list(tasks.TASKS))
        finally:
            for worker in workers.values():
                worker.close()
    about["model"] = (
        "a toy; its figures mean nothing" if arguments.quick else "ViT-B/32, random weights, float32"
    )
    about["seconds of the whole run"] = f"{time.perf_counter() - started:.0f}"
    print(write(arguments.output, lines, about, list(ALTERNATIVES)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", metavar="task", help=f"any of {', '.join(tasks.TASKS)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a toy model and few items, to check that everything runs"
    )
    parser.add_argument("--repeats", type=int, help="repetitions of every task (default: 3)")
    parser.add_argument("--rows", type=int, help="rows of the pair table (default: 2,000)")
    parser.add_argument("--open-clip", type=Path, help="a folder with open_clip, if it is not installed")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the results")
    arguments = parser.parse_args()
    unknown = set(arguments.tasks) - set(tasks.TASKS)
    if unknown:
        parser.error(f"unknown task: {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    main()
