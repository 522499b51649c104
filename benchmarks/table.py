"""Figures become one table: medians, spreads, and the ratio to the best alternative; as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "clipdemo"


@dataclass(frozen=True)
class Line:
    """What was measured for one task.

    Attributes:
        task: in words.
        unit: "s", "ms", "MB" or "%".
        values: every repetition by contender.
        target: what was aimed at, in words; empty without an aim.
        scaled: contenders of which only a part was run, and by how much it was multiplied.
        failed: contenders that gave no figure, and why.
    """

    task: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)
    target: str = ""
    scaled: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times as long the best alternative takes, medians compared; None without one."""
        others = [statistics.median(taken) for name, taken in self.values.items() if name != OURS and taken]
        own = self.values.get(OURS)
        return min(others) / statistics.median(own) if own and others else None


def markdown(lines: list[Line], machine: dict[str, str], names: list[str]) -> str:
    """The whole of ``results.md``."""
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
        "Median (least to most) of the repetitions, alternatives taken in turn in one run. A star: scaled",
        "from a part. One thing more or the same again, where it takes less than a second, is asked five times",
        "in a row each time, and their median is one repetition. The ratio is the best alternative's median over",
        "clipdemo's.",
        "",
    ]
    text += [f"| task | {' | '.join([OURS, *names])} | ratio | aim |", "|" + " --- |" * (len(names) + 4)]
    for line in compared:
        cells = [_cell(line, name) for name in [OURS, *names]]
        ratio = "" if line.ratio is None else f"**{line.ratio:.3g} ×**"
        text.append(f"| {line.task} | {' | '.join(cells)} | {ratio} | {line.target} |")
    text += ["", "| figure | value | aim |", "| --- | --- | --- |"]
    for line in single:
        for name in [*line.values, *line.failed]:
            task = line.task if name == OURS else f"{line.task}: {name}"
            text.append(f"| {task} | {_cell(line, name)} | {line.target} |")
    reasons = {f"{name}: {why}" for line in lines for name, why in line.failed.items() if why}
    text += ["", *(f"- {reason}" for reason in sorted(reasons)), ""] if reasons else [""]
    return "\n".join(text)


def write(folder: Path, lines: list[Line], machine: dict[str, str], names: list[str]) -> str:
    """Write ``results.md`` and ``results.json``; gives the first."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(lines, machine, names)
    (folder / "results.md").write_text(text, encoding="utf-8")
    content = {"machine": machine, "lines": [{**asdict(line), "ratio": line.ratio} for line in lines]}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return text


def _cell(line: Line, name: str) -> str:
    taken = line.values.get(name)
    if not taken:
        return "not run" if name in line.failed else ""
    star = "\\*" if line.scaled.get(name, 1.0) > 1 else ""
    middle = f"{_number(statistics.median(taken))} {line.unit}{star}"
    return middle if len(taken) == 1 else f"{middle} ({_number(min(taken))}–{_number(max(taken))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
