"""Writes figures as one table (medians, spreads, ratio to the best alternative), as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "clipdemo"


@dataclass(frozen=True)
class Line:
    """The measurements of one task.

    Attributes:
        task: title of the row.
        unit: "s", "ms", "MB", "%" or "GFLOP/s".
        values: every repetition, by contender.
        target: such as "≥ 1.2 ×", or empty.
        scaled: factor by contender, above 1 if only a part was run.
        failed: reason by contender that returned no figure.
    """

    task: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)
    target: str = ""
    scaled: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The best alternative's median over clipdemo's; None if either is missing."""
        others = [statistics.median(times) for name, times in self.values.items() if name != OURS and times]
        own = self.values.get(OURS)
        return min(others) / statistics.median(own) if own and others else None


def markdown(lines: list[Line], machine: dict[str, str], names: list[str]) -> str:
    """Return the content of ``results.md``."""
    compared = [line for line in lines if OURS in line.values and len(line.values) + len(line.failed) > 1]
    single = [line for line in lines if line not in compared]
    text = [
        "# Results of `python -m benchmarks`",
        "",
        "Written by the command; docs/performance.md explains it.",
        "",
    ]
    text += [f"- {name}: {value}" for name, value in machine.items()]
    text += [
        "",
        "Median (minimum to maximum) of the repetitions; contenders take turns in one run. A star marks a",
        "figure that was scaled from a part. Questions with one more item, or the same again, are asked",
        "five times in a row if they take less than a second; their median is one repetition. The ratio is",
        "the best alternative's median over clipdemo's.",
        "",
    ]
    text += [f"| task | {' | '.join([OURS, *names])} | ratio | target |", "|" + " --- |" * (len(names) + 4)]
    for line in compared:
        cells = [_cell(line, name) for name in [OURS, *names]]
        ratio = "" if line.ratio is None else f"**{line.ratio:.3g} ×**"
        text.append(f"| {line.task} | {' | '.join(cells)} | {ratio} | {line.target} |")
    text += ["", "| figure | value | target |", "| --- | --- | --- |"]
    for line in single:
        for name in [*line.values, *line.failed]:
            task = line.task if name == OURS else f"{line.task}: {name}"
            text.append(f"| {task} | {_cell(line, name)} | {line.target} |")
    reasons = {f"{name}: {why}" for line in lines for name, why in line.failed.items() if why}
    text += ["", *(f"- {reason}" for reason in sorted(reasons)), ""] if reasons else [""]
    return "\n".join(text)


def write(folder: Path, lines: list[Line], machine: dict[str, str], names: list[str]) -> str:
    """Write ``results.md`` and ``results.json``; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(lines, machine, names)
    (folder / "results.md").write_text(text, encoding="utf-8")
    content = {"machine": machine, "lines": [{**asdict(line), "ratio": line.ratio} for line in lines]}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return text


def _cell(line: Line, name: str) -> str:
    times = line.values.get(name)
    if not times:
        return "not run" if name in line.failed else ""
    star = "\\*" if line.scaled.get(name, 1.0) > 1 else ""
    median = f"{_number(statistics.median(times))} {line.unit}{star}"
    return median if len(times) == 1 else f"{median} ({_number(min(times))}–{_number(max(times))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
