"""Pairs on disk and training runs for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from plain_encoder import csv_of

from clipdemo.train.run import TrainingResult, TrainOptions, run_training

PLACES = ["left", "right", "top", "bottom"]
HUES = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "white": (245, 245, 245)}
MARKS = ["plain", "dark"]


def write_pairs(folder: Path, *, splits: bool = True) -> Path:
    """Write 32 generated images, half-coloured, with two captions each; every eighth is for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    kinds = [(hue, place, mark) for hue in HUES for place in PLACES for mark in MARKS]
    for number, (hue, place, mark) in enumerate(kinds):
        pixels = np.full((32, 32, 3), 0 if mark == "dark" else 120, dtype=np.uint8)
        half = {"left": np.s_[:, :16], "right": np.s_[:, 16:], "top": np.s_[:16], "bottom": np.s_[16:]}[place]
        pixels[half] = HUES[hue]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "val" if number % 8 == 0 else "train"
        for caption in (f"{hue} {place} {mark}", f"{mark} with {hue} at the {place}"):
            rows.append((f"{number}.png", caption, split)[: 3 if splits else 2])
    table = folder / "pairs.csv"
    table.write_bytes(csv_of(rows, ("image", "caption", "split")[: 3 if splits else 2]))
    return table


def train_options(table: Path, output: Path, **changes: object) -> TrainOptions:
    """Return the options of a run on the CPU, with changes."""
    defaults: dict[str, object] = {
        "table": table,
        "output": output,
        "images": table.parent,
        "image_tower": "embedded",
        "text_tower": "embedded",
        "head": "linear",
        "unfreeze": "",
        "base": None,
        "adapt": "",
        "epochs": None,
        "batch_size": None,
        "learning_rate": None,
        "seed": 0,
        "device": "cpu",
        "resume": False,
        "command": "clipdemo train pairs.csv",
    }
    return TrainOptions(**(defaults | changes))


def run(table: Path, output: Path, **changes: object) -> TrainingResult:
    """Train to the end."""
    return run_training(train_options(table, output, **changes), lambda step: None, lambda *progress: None)
