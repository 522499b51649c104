"""The benchmarks run on a toy model and few items; no test asserts their figures."""

import json
import math
import subprocess
import sys
from pathlib import Path

from benchmarks.photographs import TWELVE_MEGAPIXELS, caption, photograph
from benchmarks.table import Line, markdown

ROOT = Path(__file__).parents[2]
TASKS = [
    "cold",
    "warm",
    "large",
    "table",
    "tower",
    "embedded",
    "reruns",
]  # all except "paint", which needs a browser


def test_every_task_returns_a_figure_for_every_installed_contender(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), *TASKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    lines = {line["task"]: line for line in results["lines"]}
    assert len(lines) == len(results["lines"]) == 21
    for line in lines.values():
        assert all(times and not any(map(math.isnan, times)) for times in line["values"].values()), line
    cold = lines["2 photographs × 2 captions, cold"]
    installed = {"clipdemo", "transformers pipeline", "sentence-transformers", "loop over pairs"}
    assert installed <= set(cold["values"])
    assert cold["ratio"] > 0
    assert set(cold["failed"]) <= {"open_clip"}
    assert "| one more caption |" in (tmp_path / "results.md").read_text()


def test_the_ratio_is_that_of_the_fastest_alternative():
    line = Line("a task", "s", {"clipdemo": [1.0, 2.0, 9.0], "slow": [10.0], "quick": [5.0, 6.0, 7.0]})
    assert line.ratio == 3
    assert "| a task | 2 s (1–9) | 10 s | 6 s (5–7) | **3 ×** |  |" in markdown([line], {}, ["slow", "quick"])


def test_a_scaled_figure_is_starred_and_a_failure_has_its_reason():
    line = Line(
        "a task", "s", {"clipdemo": [1.0], "part": [8.0]}, "", {"part": 4.0}, {"gone": "not installed"}
    )
    text = markdown([line], {}, ["part", "gone"])
    assert "| 8 s\\* | not run |" in text
    assert "- gone: not installed" in text


def test_photographs_and_captions_are_reproducible_and_all_different():
    assert photograph(3) == photograph.__wrapped__(3) != photograph(4)
    assert len({caption(number) for number in [*range(5000), *range(1_000_000, 1_005_000)]}) == 10_000
    assert len(photograph(0, TWELVE_MEGAPIXELS)) > 1_000_000
