"""Memory and speed of ``clipdemo pairs``: ``python -m benchmarks.pair_table [rows]`` (default: 10,000).

Every row has an image file and a caption of its own, the worst case for memory. The checkpoint is a CLIP
with small towers and the usual 512 dimensions, so that the table dominates, not the model. Needs the
development requirements. Prints rows a second, and the peak of resident memory above that of a run with ten
rows.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_checkpoints import save_colour_clip

SIDE = 48  # pixels


def main() -> None:
    """Measure and print the figures."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_colour_clip(folder / "checkpoint", dim=512)
        baseline = run(folder, 10)
        result = run(folder, rows)
    growth = result["peak_memory_bytes"] - baseline["peak_memory_bytes"]
    print(f"{'rows':40} {rows:10,}")
    print(f"{'seconds':40} {result['seconds']:10.1f}")
    print(f"{'rows a second':40} {rows / result['seconds']:10.1f}")
    print(f"{'peak memory, ten rows, MB':40} {baseline['peak_memory_bytes'] / 1e6:10.0f}")
    print(f"{'peak memory, all rows, MB':40} {result['peak_memory_bytes'] / 1e6:10.0f}")
    print(f"{'over the loaded model, MB':40} {growth / 1e6:10.0f}")
    for stage in result["stages"]:
        print(f"  {stage['name']:38} {stage['seconds']:10.1f} s for {stage['items']:,}")


def run(folder: Path, rows: int) -> dict[str, object]:
    """Run the real command over ``rows`` generated rows; returns its JSON output."""
    images = folder / f"images-{rows}"
    images.mkdir()
    random = np.random.default_rng(0)
    table = folder / f"{rows}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number in range(rows):
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.jpg", quality=60)
            writer.writerow([f"{number}.jpg", f"object number {number} of the table"])
    command = [sys.executable, "-m", "clipdemo", "pairs", str(table), "--output", str(folder / "out.csv")]
    command += ["--images", str(images), "--checkpoint", str(folder / "checkpoint"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    output: dict[str, object] = json.loads(done.stdout)
    return output


if __name__ == "__main__":
    main()
