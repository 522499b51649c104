"""What is measured: every task asks the workers turn by turn and gives the lines of the table."""

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
        captions: of the same question.
        large: photographs of twelve megapixels.
        rows: of the pair table; alternatives run ``rows_compared`` of them.
        rows_compared: rows that every contender runs in turn.
        repeats: of every task.
        batches: sizes tried inside the image tower.
        workspace: images, besides the samples, and captions of the reruns.
        visits: of the page in a browser.
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
    """The workers and what to do with them."""

    size: Size
    workers: dict[str, Worker]
    failed: dict[str, str]

    def turns(self, line: Line, step: str, **given: Any) -> Line:
        """Ask every worker, again and again, for one step."""
        alive = {name: worker for name, worker in self.workers.items() if name != EMBEDDED}
        line.failed.update(self.failed)
        for _ in range(self.size.repeats):
            for name, worker in list(alive.items()):
                try:
                    found = worker.ask(step, **given)
                except WorkerError as error:
                    line.failed[name] = str(error)[:200]
                    del alive[name]
                    continue
                line.values.setdefault(name, []).append(found["seconds"] * _FACTORS[line.unit])
                line.scaled[name] = found["scale"]
        return line


_FACTORS = {"s": 1.0, "ms": 1000.0}
Task = Callable[[Bench], Sequence[Line]]


def cold(bench: Bench) -> Sequence[Line]:
    """Files to scores."""
    size = bench.size
    title = f"{size.images} photographs × {size.captions} captions, cold"
    line = Line(title, "s", target="≥ 1.2 ×")
    return [
        bench.turns(line, "cold", images=size.images, texts=size.captions),
        *_memory(bench, "after the cold task"),
    ]


def warm(bench: Bench) -> Sequence[Line]:
    """The next questions about the same images."""
    given = {"images": bench.size.images, "texts": bench.size.captions}
    return [
        bench.turns(Line("one more caption", "ms", target="≥ 50 ×"), "another_caption", **given),
        bench.turns(Line("that caption alone, image embeddings kept by hand", "ms"), "only_a_caption"),
        bench.turns(Line("one more image", "ms"), "another_image", **given),
        bench.turns(Line("the same page again", "ms"), "again", **given),
    ]


def large(bench: Bench) -> Sequence[Line]:
    """Files as a phone makes them."""
    line = Line(f"{bench.size.large} JPEGs of 12 megapixels, bytes to embeddings", "s", target="≥ 2.5 ×")
    return [bench.turns(line, "large", images=bench.size.large), *_memory(bench, "after 12-megapixel JPEGs")]


def table(bench: Bench) -> Sequence[Line]:
    """Rows of URLs on this machine."""
    size = bench.size
    with serving() as port:
        title = f"pair table from a web server on this machine, {size.rows_compared} rows"
        line = Line(title, "s", target="≥ 1.5 ×")
        lines = [bench.turns(line, "table", port=port, rows=size.rows_compared)]
        before = bench.workers[OWN].ask("only_a_caption")["megabytes"]
        found = bench.workers[OWN].ask("table", port=port, rows=size.rows)
    each = found["seconds"] / size.rows * 1000
    grown = found["megabytes"] - before
    return [
        *lines,
        Line(f"a row of the pair table, {size.rows:,} rows", "ms", {OWN: [each]}),
        Line(f"memory grown over {size.rows:,} rows", "MB", {OWN: [grown]}, "flat"),
        *_memory(bench, "after the pair table"),
    ]


def tower(bench: Bench) -> Sequence[Line]:
    """How much of the machine the image tower uses."""
    found = bench.workers[OWN].ask("tower", sizes=bench.size.batches, repeats=max(2, bench.size.repeats))
    shares = {
        f"batch of {batch}": [100 * share for share in taken] for batch, taken in found["shares"].items()
    }
    return [
        Line("matrix product of the machine", "GFLOP/s", {OWN: found["gigaflops"]}),
        Line("share of it inside the image tower", "%", shares, "≥ 80 % at the best batch"),
    ]


def embedded(bench: Bench) -> Sequence[Line]:
    """The model that needs no hub."""
    worker, size = bench.workers[EMBEDDED], bench.size
    found = [worker.ask("embedded", images=size.images, texts=size.captions) for _ in range(size.repeats)]
    return [
        Line("embedded model, an image", "ms", {OWN: [1000 * each["image"] for each in found]}),
        Line("embedded model, a caption", "ms", {OWN: [1000 * each["caption"] for each in found]}),
        Line("memory with the embedded model", "MB", {OWN: [found[-1]["megabytes"]]}),
    ]


def reruns(bench: Bench) -> Sequence[Line]:
    """Script time with a full workspace."""
    images, captions = bench.size.workspace
    command = [sys.executable, "-m", "benchmarks.reruns", str(images), str(captions), str(bench.size.repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout.splitlines()[-1])
    title = f"rerun with {images} images and the samples × {captions} captions, {{}} page"
    return [
        *(
            Line(title.format(page), "ms", {OWN: [1000 * each for each in found[page]]}, "≤ 150 ms")
            for page in ("Rank", "Matrix")
        ),
        Line("memory of that process", "MB", {OWN: [found["megabytes"]]}),
    ]


def paint(bench: Bench) -> Sequence[Line]:
    """The first visit, in a browser."""
    try:
        from benchmarks import first_visit
    except ImportError:
        return [Line("first paint", "s", failed={OWN: "needs the development requirements"})]
    if first_visit.CHROMIUM is None:
        return [Line("first paint", "s", failed={OWN: "no Chromium here"})]
    seen = first_visit.paint(bench.size.visits)
    return [
        Line("first ranked grid, cold server", "s", {OWN: [seen.cold]}),
        Line("first ranked grid, warm server", "s", {OWN: seen.warm}, "≤ 2 s"),
        Line("empty Streamlit page, warm server", "s", {OWN: seen.empty}),
        Line("server memory, embedded model warm", "MB", {OWN: [seen.megabytes]}),
    ]


def _memory(bench: Bench, moment: str) -> list[Line]:
    held: dict[str, list[float]] = {}
    for name, worker in bench.workers.items():
        if name != EMBEDDED:
            held[name] = [worker.ask("nothing")["megabytes"]]
    return [Line(f"memory {moment}", "MB", held)]


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


def run(bench: Bench, wanted: Sequence[str]) -> list[Line]:
    """The lines of the tasks wanted, in the order of ``TASKS``; says on the way how long each takes."""
    lines = _memory(bench, "loaded and warm")
    for name, task in TASKS.items():
        if name in wanted:
            started = time.perf_counter()
            lines += task(bench)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return lines
