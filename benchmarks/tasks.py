"""The tasks: each asks the workers in turn and returns lines of the table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.steps import EMBEDDED, OWN
from benchmarks.table import Line
from benchmarks.web import serving
from benchmarks.worker import Worker, WorkerError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: photographs of one megapixel.
        captions: captions of a question.
        large: photographs of twelve megapixels.
        rows: rows of the pair table that clipdemo runs alone.
        rows_compared: rows of the pair table that every contender runs in turn.
        repeats: repetitions of every task.
        batches: batch sizes for the image tower.
        workspace: images (in addition to the samples) and captions of the reruns.
        visits: visits in a browser.
    """

    images: int = 64
    captions: int = 8
    large: int = 6
    rows: int = 2_000
    rows_compared: int = 256
    repeats: int = 3
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    workspace: tuple[int, int] = (186, 50)
    visits: int = 5


QUICK = Size(2, 2, 1, 6, 4, 1, (1, 2), (2, 3), 1)


@dataclass(frozen=True)
class Bench:
    """The workers that run, those that failed with their reasons, and how much is measured."""

    size: Size
    workers: dict[str, Worker]
    failed: dict[str, str]

    def turns(self, line: Line, step: str, **given: Any) -> Line:
        """Ask every worker in turn for one step, ``repeats`` times, and add the figures to the line."""
        alive = {name: worker for name, worker in self.workers.items() if name != EMBEDDED}
        line.failed.update(self.failed)
        for _ in range(self.size.repeats):
            for name, worker in list(alive.items()):
                try:
                    answer = worker.ask(step, **given)
                except WorkerError as error:
                    line.failed[name] = str(error)[:200]
                    del alive[name]
                    continue
                line.values.setdefault(name, []).append(answer["seconds"] * _FACTORS[line.unit])
                line.scaled[name] = answer["scale"]
        return line


_FACTORS = {"s": 1.0, "ms": 1000.0}
Task = Callable[[Bench], Sequence[Line]]


def cold(bench: Bench) -> Sequence[Line]:
    """Score files with an empty cache."""
    size = bench.size
    title = f"{size.images} photographs × {size.captions} captions, cold"
    line = Line(title, "s", target="≥ 1.3 ×; ≥ 2 × on AMD with AVX-512")
    return [
        bench.turns(line, "cold", images=size.images, texts=size.captions),
        *_memory(bench, "after the cold task"),
    ]


def warm(bench: Bench) -> Sequence[Line]:
    """Ask further questions about the same images."""
    given = {"images": bench.size.images, "texts": bench.size.captions}
    return [
        bench.turns(Line("one more caption", "ms", target="≥ 50 ×"), "one_more_caption", **given),
        bench.turns(Line("that caption alone, image embeddings kept by hand", "ms"), "caption_alone"),
        bench.turns(Line("one more image", "ms"), "one_more_image", **given),
        bench.turns(Line("the same page again", "ms"), "same_question", **given),
    ]


def large(bench: Bench) -> Sequence[Line]:
    """Encode photographs as large as a phone's."""
    line = Line(f"{bench.size.large} JPEGs of 12 megapixels, bytes to embeddings", "s", target="≥ 2.5 ×")
    return [bench.turns(line, "large", images=bench.size.large), *_memory(bench, "after 12-megapixel JPEGs")]


def table(bench: Bench) -> Sequence[Line]:
    """Score a table of URLs that this machine serves."""
    size = bench.size
    with serving() as port:
        title = f"pair table from a web server on this machine, {size.rows_compared} rows"
        line = Line(title, "s", target="≥ 1.5 ×")
        lines = [bench.turns(line, "table", port=port, rows=size.rows_compared)]
        before = bench.workers[OWN].ask("caption_alone")["megabytes"]
        answer = bench.workers[OWN].ask("table", port=port, rows=size.rows)
    milliseconds = answer["seconds"] / size.rows * 1000
    growth = answer["megabytes"] - before
    return [
        *lines,
        Line(f"a row of the pair table, {size.rows:,} rows", "ms", {OWN: [milliseconds]}),
        Line(f"memory grown over {size.rows:,} rows", "MB", {OWN: [growth]}, "flat"),
        *_memory(bench, "after the pair table"),
    ]


def tower(bench: Bench) -> Sequence[Line]:
    """Measure how much of the machine's arithmetic the image tower reaches."""
    answer = bench.workers[OWN].ask("tower", sizes=bench.size.batches, repeats=max(2, bench.size.repeats))
    percent = {
        f"batch of {batch}": [100 * share for share in shares] for batch, shares in answer["shares"].items()
    }
    return [
        Line("matrix product of the machine", "GFLOP/s", answer["gigaflops"]),
        Line("share of the best of them inside the image tower", "%", percent, "≥ 70 % at the best batch"),
    ]


def embedded(bench: Bench) -> Sequence[Line]:
    """Time the embedded model."""
    worker, size = bench.workers[EMBEDDED], bench.size
    answers = [worker.ask("embedded", images=size.images, texts=size.captions) for _ in range(size.repeats)]
    return [
        Line("embedded model, an image", "ms", {OWN: [1000 * each["image"] for each in answers]}),
        Line("embedded model, a caption", "ms", {OWN: [1000 * each["caption"] for each in answers]}),
        Line("memory with the embedded model", "MB", {OWN: [answers[-1]["megabytes"]]}),
    ]


def reruns(bench: Bench) -> Sequence[Line]:
    """Time reruns of the script with a full workspace."""
    images, captions = bench.size.workspace
    command = [sys.executable, "-m", "benchmarks.reruns", str(images), str(captions), str(bench.size.repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    answer = json.loads(done.stdout.splitlines()[-1])
    title = f"rerun with {images} images and the samples × {captions} captions, {{}} page"
    return [
        *(
            Line(title.format(page), "ms", {OWN: [1000 * each for each in answer[page]]}, "≤ 150 ms")
            for page in ("Rank", "Matrix")
        ),
        Line("memory of that process", "MB", {OWN: [answer["megabytes"]]}),
    ]


def paint(bench: Bench) -> Sequence[Line]:
    """Time the first visit in a browser."""
    try:
        from benchmarks import first_visit
    except ImportError:
        return [Line("first paint", "s", failed={OWN: "needs the development requirements"})]
    if first_visit.CHROMIUM is None:
        return [Line("first paint", "s", failed={OWN: "Chromium is not installed"})]
    times = first_visit.paint(bench.size.visits)
    return [
        Line("first ranked grid, cold server", "s", {OWN: [times.cold]}),
        Line("first ranked grid, warm server", "s", {OWN: times.warm}, "≤ 2 s"),
        Line("empty Streamlit page, warm server", "s", {OWN: times.empty}),
        Line("server memory, embedded model warm", "MB", {OWN: [times.megabytes]}),
    ]


def _memory(bench: Bench, moment: str) -> list[Line]:
    megabytes: dict[str, list[float]] = {}
    for name, worker in bench.workers.items():
        if name != EMBEDDED:
            megabytes[name] = [worker.ask("memory")["megabytes"]]
    return [Line(f"memory {moment}", "MB", megabytes)]


TASKS: dict[str, Task] = {
    "cold": cold,
    "warm": warm,
    "large": large,
    "table": table,
    "tower": tower,
    "embedded": embedded,
    "reruns": reruns,
    "paint": paint,
}


def run(bench: Bench, names: Sequence[str]) -> list[Line]:
    """Run the named tasks in the order of ``TASKS``, printing how long each takes; returns their lines."""
    lines = _memory(bench, "loaded and warm")
    for name, task in TASKS.items():
        if name in names:
            started = time.perf_counter()
            lines += task(bench)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return lines
