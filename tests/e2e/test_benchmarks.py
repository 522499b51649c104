"""The benchmarks run, on a toy model and few items; what they measure is never asserted."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.photographs import TWELVE_MEGAPIXELS, caption, photograph
from benchmarks.table import Line, markdown

ROOT = Path(__file__).parents[2]
TASKS = ["cold", "warm", "large", "table", "tower", "embedded", "reruns"]  # all but the browser's


def test_every_task_gives_a_figure_for_every_contender_that_is_installed(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), *TASKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "results.json").read_text())
    lines = {line["task"]: line for line in written["lines"]}
    assert len(lines) == len(written["lines"]) == 21
    for line in lines.values():
        assert all(taken and min(taken) == min(taken) for taken in line["values"].values()), line
    cold = lines["2 photographs × 2 captions, cold"]
    own_kind = {"clipdemo", "transformers pipeline", "sentence-transformers", "loop over pairs"}
    assert own_kind <= set(cold["values"])
    assert cold["ratio"] > 0
    assert set(cold["failed"]) <= {"open_clip"}
    assert "| one more caption |" in (tmp_path / "results.md").read_text()


def test_the_ratio_is_that_of_the_quickest_alternative():
    line = Line("a task", "s", {"clipdemo": [1.0, 2.0, 9.0], "slow": [10.0], "quick": [5.0, 6.0, 7.0]})
    assert line.ratio == 3
    assert "| a task | 2 s (1–9) | 10 s | 6 s (5–7) | **3 ×** |  |" in markdown([line], {}, ["slow", "quick"])


def test_what_was_only_partly_run_says_so_and_what_failed_says_why():
    line = Line(
        "a task", "s", {"clipdemo": [1.0], "part": [8.0]}, "", {"part": 4.0}, {"gone": "not installed"}
    )
    text = markdown([line], {}, ["part", "gone"])
    assert "| 8 s\\* | not run |" in text
    assert "- gone: not installed" in text


def test_photographs_and_captions_are_the_same_every_time_and_all_different():
    assert photograph(3) == photograph.__wrapped__(3) != photograph(4)
    assert len({caption(number) for number in [*range(5000), *range(1_000_000, 1_005_000)]}) == 10_000
    assert len(photograph(0, TWELVE_MEGAPIXELS)) > 1_000_000
