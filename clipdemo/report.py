"""What people take away: rankings as CSV, the grid as PNG, embeddings as ``.npz``. No streamlit here."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from clipdemo.prompts import Query, Templates
from clipdemo.scoring import encode_queries
from clipdemo.types import Checkpoint, Encoder, Hit, ImageItem

_TILE, _GAP, _TEXT = 260, 16, 54
_INK, _FAINT, _PAPER = "#1f2430", "#667085", "#ffffff"
# Fonts with more letters than Pillow's own, where the machine has one.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")

# Japanese editions of Excel run the full-width signs too; tabs and line ends are dropped before a cell is run.
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "\0")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Ranked:
    """A query with its hits among ``names``.

    Attributes:
        query: the caption or image name that was asked.
        hits: best first.
        names: what each ``Hit.index`` is called: image names, or captions.
        hashes: SHA-256 of each image; empty when captions were ranked.
        shares: (n,) share or sigmoid of each candidate, or None where it says nothing.
    """

    query: str
    hits: Sequence[Hit]
    names: Sequence[str]
    hashes: Sequence[str] = ()
    shares: Sequence[float] | None = None


def ranking_csv(rankings: Sequence[Ranked], checkpoint: Checkpoint, templates: Templates) -> bytes:
    """One row per query and candidate, UTF-8 with a byte-order mark so that spreadsheets read it right."""
    rows = [
        {
            "query": ranking.query,
            "rank": hit.rank,
            "name": ranking.names[hit.index],
            "cosine": round(hit.cosine, 6),
            "percentile": round(hit.percentile, 2),
            "sigmoid" if checkpoint.logit_bias is not None else "share": ""
            if ranking.shares is None
            else round(float(ranking.shares[hit.index]), 6),
            "sha256": ranking.hashes[hit.index] if ranking.hashes else "",
            "checkpoint": checkpoint.id,
            "revision": checkpoint.revision,
            "templates": " | ".join(templates.patterns),
        }
        for ranking in rankings
        for hit in ranking.hits
    ]
    table = pd.DataFrame(rows).map(lambda cell: inert(cell) if isinstance(cell, str) else cell)
    return table.to_csv(index=False).encode("utf-8-sig")


def inert(cell: str) -> str:
    """The cell with an apostrophe before anything a spreadsheet would run as a formula.

    A plain number such as -1.5 or +3e-5 stays as it is.
    Source: OWASP, "CSV Injection".
    """
    bare = cell.strip(" ")
    return f"'{cell}" if bare.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(bare) else cell


def grid_png(
    sections: Sequence[tuple[str, Sequence[Hit]]], items: Sequence[ImageItem], footer: str, columns: int = 5
) -> bytes:
    """Rankings as one picture on white: a heading and its tiles for each section, ``footer`` below.

    Args:
        sections: (heading, hits) of each ranking, top to bottom.
        items: what ``Hit.index`` points into.
        footer: says under which checkpoint and templates the scores hold.
        columns: tiles in a row.
    """
    tile = _TILE + _TEXT + _GAP
    columns = max([1, *(min(columns, len(hits)) for _, hits in sections)])
    heights = [56 + -(-len(hits) // columns) * tile for _, hits in sections]
    width = max(640, columns * (_TILE + _GAP) + _GAP)
    canvas = Image.new("RGB", (width, sum(heights) + 40), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for (heading, hits), height in zip(sections, heights, strict=True):
        _write(draw, (_GAP, top + 16), heading, 24, width - 2 * _GAP)
        for place, hit in enumerate(hits):
            corner = _GAP + place % columns * (_TILE + _GAP), top + 56 + place // columns * tile
            _draw_tile(canvas, draw, corner, hit, items[hit.index])
        top += height
    _write(draw, (_GAP, canvas.height - 28), footer, 14, width - 2 * _GAP, _FAINT)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _draw_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], hit: Hit, item: ImageItem
) -> None:
    left, top = corner
    with Image.open(io.BytesIO(item.thumbnail), formats=["JPEG"]) as thumbnail:
        fitted = thumbnail.convert("RGB")
    fitted.thumbnail((_TILE, _TILE))
    canvas.paste(fitted, (left + (_TILE - fitted.width) // 2, top + (_TILE - fitted.height) // 2))
    _write(draw, (left, top + _TILE + 6), f"{hit.rank}  {item.name}", 17, _TILE)
    score = f"cosine {hit.cosine:.3f} · percentile {hit.whole_percentile}"
    _write(draw, (left, top + _TILE + 28), score, 15, _TILE, _FAINT)


def embeddings_npz(
    encoder: Encoder, items: Sequence[ImageItem], captions: Sequence[str], templates: Templates
) -> bytes:
    """Arrays ``images`` (n, dim) and ``captions`` (m, dim), float32 unit rows, with what they belong to.

    Beside them: ``names``, ``sha256``, ``caption_texts``, ``templates``, ``checkpoint``, ``revision`` and
    ``fingerprint``. Read it with ``numpy.load(file)``; nothing in it is pickled.
    """
    checkpoint = encoder.checkpoint
    queries = [Query.parse(caption) for caption in captions]
    out = io.BytesIO()
    np.savez_compressed(
        out,
        images=encoder.encode_images(items),
        captions=encode_queries(encoder, queries, templates),
        names=np.array([item.name for item in items], dtype=np.str_),
        sha256=np.array([item.sha256 for item in items], dtype=np.str_),
        caption_texts=np.array(list(captions), dtype=np.str_),
        templates=np.array(templates.patterns, dtype=np.str_),
        checkpoint=checkpoint.id,
        revision=checkpoint.revision,
        fingerprint=checkpoint.fingerprint,
    )
    return out.getvalue()


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, room: int, ink: str = _INK
) -> None:
    font = _font(size)
    line = " ".join(text.split())
    if draw.textlength(line, font) > room:
        while line and draw.textlength(line + "…", font) > room:
            line = line[:-1]
        line += "…"
    draw.text(at, line, fill=ink, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
