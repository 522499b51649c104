"""How far embeddings are from the reference: ``python -m benchmarks.fidelity pairs.csv``.

The reference decodes every pixel and leaves the rest to the settings of the checkpoint. Beside it are the
model copy, which pages use, and the view, which streams use; for the files as they are, then enlarged.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.checkpoint import save_checkpoint
from clipdemo.images.decode import decode_image
from clipdemo.models.load import load_encoder
from clipdemo.regular import open_regular
from clipdemo.similarity import FloatArray
from clipdemo.tables.table import open_table
from clipdemo.types import Encoder, ImageItem

BATCH = 16
WAYS = ("reference", "copy", "view")


def main() -> None:
    """Measure two checkpoints and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("table", type=Path, help="image,caption rows; paths relative to its folder")
    parser.add_argument("--megapixels", type=float, default=12, help="of the enlarged files")
    parser.add_argument("--every", type=int, default=1, help="use every n-th image")
    options = parser.parse_args()
    pairs = list(open_table(options.table.name, lambda: open_regular(options.table)).rows())
    names = list(dict.fromkeys(row.image for row in pairs))[:: options.every]
    captions = list(dict.fromkeys(row.caption for row in pairs if row.image in set(names)))
    files = [options.table.parent / name for name in names]
    print("| files | checkpoint | way | mean distance | largest | captions with another first image |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {
            "random ViT-B/32": str(save_checkpoint(Path(folder), tiny=False)),
            "embedded": "embedded",
        }
        for title, name in checkpoints.items():
            encoder = load_encoder(name, device="cpu")
            queries = encoder.encode_captions(captions)
            for pixels in (0.0, 1e6 * options.megapixels):
                rows = _embeddings(encoder, files, pixels)
                for way in WAYS[1:]:
                    size = f"{pixels / 1e6:g} megapixels" if pixels else "as they are"
                    print(
                        f"| {size} | {title} | {way} | {_compare(rows[way], rows['reference'], queries)} |",
                        flush=True,
                    )


def _compare(rows: FloatArray, reference: FloatArray, queries: FloatArray) -> str:
    # Half the squared difference: one minus a float32 cosine would end at 1e-7.
    apart = ((rows.astype(np.float64) - reference) ** 2).sum(axis=1) / 2
    first, expected = (queries @ each.T for each in (rows, reference))
    changed = (first.argmax(axis=1) != expected.argmax(axis=1)).mean()
    return f"{apart.mean():.1e} | {apart.max():.1e} | {100 * changed:.1f} %"


def _embeddings(encoder: Encoder, files: list[Path], pixels: float) -> dict[str, FloatArray]:
    rows: dict[str, list[FloatArray]] = {way: [] for way in WAYS}
    for start in range(0, len(files), BATCH):
        batch = [_three_ways(encoder, file, pixels) for file in files[start : start + BATCH]]
        for way, items in zip(WAYS, zip(*batch, strict=True), strict=True):
            rows[way].append(encoder.encode_images(items))
    return {way: np.concatenate(parts) for way, parts in rows.items()}


def _three_ways(encoder: Encoder, file: Path, pixels: float) -> Iterator[ImageItem]:
    data = file.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        if pixels:
            data = _enlarged(image.convert("RGB"), pixels)
    with Image.open(io.BytesIO(data)) as image:
        yield ImageItem("", "", image.convert("RGB"), b"", *image.size, "bytes")
    yield decode_image(data, "", thumbnail=False)
    yield decode_image(data, "", thumbnail=False, view=encoder.view)


def _enlarged(image: Image.Image, pixels: float) -> bytes:
    """A JPEG of about ``pixels`` pixels, with grain: a camera's files are not smooth."""
    scale = (pixels / (image.width * image.height)) ** 0.5
    large = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    levels = np.asarray(large, dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 6, levels.shape[:2]).astype(np.float32)
    out = io.BytesIO()
    Image.fromarray((levels + grain[..., None]).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


if __name__ == "__main__":
    main()
