"""Results drawn with Pillow: the grid of a ranking and a score matrix, as PNG. No streamlit here."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from clipdemo.types import Hit, ImageItem

_TILE, _GAP, _TEXT = 260, 16, 54
_INK, _FAINT, _PAPER = "#1f2430", "#667085", "#ffffff"
# Fonts with more letters than Pillow's own, where the machine has one.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")


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
