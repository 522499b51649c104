"""Results drawn with Pillow: the grid of a ranking and a score matrix, as PNG. No streamlit here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipdemo.scoring.matrix import COLOURS, Sheet
from clipdemo.similarity import FloatArray
from clipdemo.types import Hit, ImageItem

_TILE, _GAP, _TEXT = 260, 16, 54
_INK, _FAINT, _PAPER, _WARNING = "#1f2430", "#667085", "#ffffff", "#b54708"
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
        write_line(draw, (_GAP, top + 16), heading, 24, width - 2 * _GAP)
        for place, hit in enumerate(hits):
            corner = _GAP + place % columns * (_TILE + _GAP), top + 56 + place // columns * tile
            _draw_tile(canvas, draw, corner, hit, items[hit.index])
        top += height
    write_line(draw, (_GAP, canvas.height - 28), footer, 14, width - 2 * _GAP, _FAINT)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def matrix_png(  # noqa: PLR0913 - a drawing has many captions; all but three go by name
    values: FloatArray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    row_thumbnails: Sequence[bytes] | None = None,
    title: str,
    footer: str,
    unit: str,
    ends: tuple[float, float] | None = None,
    decimals: int = 2,
) -> bytes:
    """A matrix as one picture on white: cells, names, thumbnails, a colour bar with its numbers.

    Args:
        values: (n_rows, n_columns); nan is drawn as paper. Up to 200 x 200 stay readable.
        row_names: top to bottom.
        column_names: left to right; written sideways.
        row_thumbnails: JPEG bytes of each row, or None where rows are words.
        title: the heading.
        footer: says under which checkpoint and templates the values hold.
        unit: what the values are, beside the colour bar.
        ends: values at the dull and the bright end of the colours; smallest and largest if None.
        decimals: digits after the point in the cells and on the bar.
    """
    seen = values[~np.isnan(values)]
    low, high = ends or ((float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0))
    sheet = Sheet(values.astype(np.float32), unit, low, high, decimals)
    count, across = values.shape
    cell = int(np.clip(1600 // max(1, count, across), 16, 56))
    wide = cell if across > 12 else 84
    left, top = _GAP + 190 + (cell if row_thumbnails else 0), 290
    width = max(760, left + across * wide + _GAP)
    canvas = Image.new("RGB", (width, top + count * cell + 56), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write_line(draw, (_GAP, 14), title, 24, width - 2 * _GAP)
    _draw_bar(canvas, draw, sheet)
    if values.size:
        cells = _coloured(sheet).resize((across * wide, count * cell), Image.Resampling.NEAREST)
        canvas.paste(cells, (left, top))
    for row, name in enumerate(row_names):
        middle = top + row * cell + cell // 2 - 8
        write_line(draw, (_GAP, middle), name, 13, 180)
        if row_thumbnails:
            canvas.paste(_square(row_thumbnails[row], cell), (left - cell, top + row * cell))
    for column, name in enumerate(column_names):
        _write_up(canvas, (left + column * wide + wide // 2 - 9, top - 6), name)
    if wide >= 40 and cell >= 20:
        _write_numbers(draw, sheet, (left, top), (wide, cell))
    write_line(draw, (_GAP, canvas.height - 34), footer, 14, width - 2 * _GAP, _FAINT)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _coloured(sheet: Sheet) -> Image.Image:
    """One pixel a cell, between the colours of the scale; paper where there is no value."""
    stops = np.array([[int(colour[n : n + 2], 16) for n in (1, 3, 5)] for colour in COLOURS])
    places = np.linspace(0, 1, len(stops))
    positions = sheet.positions()
    pixels = np.stack([np.interp(positions, places, stops[:, channel]) for channel in range(3)], axis=-1)
    pixels[np.isnan(positions)] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, sheet: Sheet) -> None:
    """The colours from dull to bright, the unit above and the numbers below."""
    left, top, width = _GAP, 78, 320
    write_line(draw, (left, top - 24), sheet.unit, 15, width)
    ramp = Sheet(np.linspace(0, 1, width, dtype=np.float32)[None], "", 0.0, 1.0, 0)
    canvas.paste(_coloured(ramp).resize((width, 16)), (left, top))
    for place in (0.0, 0.5, 1.0):
        text = f"{sheet.low + place * (sheet.high - sheet.low):.{sheet.decimals}f}"
        draw.text(
            (left + place * width, top + 20),
            text,
            _FAINT,
            _font(13),
            anchor=("la", "ma", "ra")[int(2 * place)],
        )


def _write_up(canvas: Image.Image, foot: tuple[int, int], text: str) -> None:
    """A line of text that reads from bottom to top and ends at most 160 pixels above ``foot``."""
    line = Image.new("RGB", (160, 18), _PAPER)
    write_line(ImageDraw.Draw(line), (0, 1), text, 13, 160)
    canvas.paste(line.rotate(90, expand=True), (foot[0], foot[1] - 160))


def _write_numbers(
    draw: ImageDraw.ImageDraw, sheet: Sheet, corner: tuple[int, int], cell: tuple[int, int]
) -> None:
    """The value in the middle of each cell, dark on bright and light on dull."""
    positions = sheet.positions()
    for (row, column), value in np.ndenumerate(sheet.values):
        if not np.isnan(value):
            ink = _INK if positions[row, column] > 0.55 else _PAPER
            at = corner[0] + (column + 0.5) * cell[0], corner[1] + (row + 0.5) * cell[1]
            draw.text(at, f"{value:.{sheet.decimals}f}", ink, _font(13), anchor="mm")


def thumbnail_strip(thumbnails: Sequence[bytes], tile: int, *, down: bool) -> bytes:
    """Thumbnails as one row or column of squares, the middle of each: a single picture loads fast.

    Args:
        thumbnails: JPEG bytes, in order.
        tile: side of a square in pixels.
        down: whether they stand below each other.

    Returns:
        JPEG bytes.
    """
    count = len(thumbnails)
    strip = Image.new("RGB", (tile, tile * count) if down else (tile * count, tile), _PAPER)
    for place, data in enumerate(thumbnails):
        strip.paste(_square(data, tile), (0, place * tile) if down else (place * tile, 0))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=80)
    return out.getvalue()


def _square(thumbnail: bytes, side: int) -> Image.Image:
    """The middle of a thumbnail, ``side`` pixels wide and high."""
    with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as opened:
        opened.draft("RGB", (side, side))
        return ImageOps.fit(opened.convert("RGB"), (side, side), Image.Resampling.BILINEAR, bleed=0.0)


def _draw_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], hit: Hit, item: ImageItem
) -> None:
    left, top = corner
    with Image.open(io.BytesIO(item.thumbnail), formats=["JPEG"]) as thumbnail:
        fitted = thumbnail.convert("RGB")
    fitted.thumbnail((_TILE, _TILE))
    canvas.paste(fitted, (left + (_TILE - fitted.width) // 2, top + (_TILE - fitted.height) // 2))
    write_line(draw, (left, top + _TILE + 6), f"{hit.rank}  {item.name}", 17, _TILE)
    score = f"cosine {hit.cosine:.3f} · percentile {hit.whole_percentile}"
    write_line(draw, (left, top + _TILE + 28), score, 15, _TILE, _FAINT)


def write_line(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, room: int, ink: str = _INK
) -> None:
    """One line of text, cut off with an ellipsis where it would need more than ``room`` pixels."""
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


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet: JPEG bytes (or none), and the lines below it."""

    thumbnail: bytes
    caption: str
    score: str
    flag: str


def contact_sheet_png(tiles: Sequence[Tile], footer: str, columns: int = 5) -> bytes:
    """Tiles in rows on white, ``footer`` below: each picture with its caption, score and flag."""
    columns = max(1, min(columns, len(tiles)))
    tile, text = _TILE + _GAP, 88
    width = max(640, columns * tile + _GAP)
    canvas = Image.new("RGB", (width, _GAP + -(-len(tiles) // columns) * (tile + text) + 40), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, one in enumerate(tiles):
        left, top = _GAP + place % columns * tile, _GAP + place // columns * (tile + text)
        if one.thumbnail:
            with Image.open(io.BytesIO(one.thumbnail), formats=["JPEG"]) as thumbnail:
                fitted = ImageOps.contain(thumbnail.convert("RGB"), (_TILE, _TILE))
            canvas.paste(fitted, (left + (_TILE - fitted.width) // 2, top + (_TILE - fitted.height) // 2))
        first, second = _two_lines(draw, one.caption, 16, _TILE)
        write_line(draw, (left, top + _TILE + 6), first, 16, _TILE)
        write_line(draw, (left, top + _TILE + 26), second, 16, _TILE)
        write_line(draw, (left, top + _TILE + 48), one.score, 14, _TILE, _FAINT)
        write_line(draw, (left, top + _TILE + 66), one.flag, 14, _TILE, _WARNING)
    write_line(draw, (_GAP, canvas.height - 28), footer, 14, width - 2 * _GAP, _FAINT)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _two_lines(draw: ImageDraw.ImageDraw, text: str, size: int, room: int) -> tuple[str, str]:
    """As many words as fit ``room`` pixels, and the rest."""
    words = text[:400].split()
    fits = 1
    while fits < len(words) and draw.textlength(" ".join(words[: fits + 1]), _font(size)) <= room:
        fits += 1
    return " ".join(words[:fits]), " ".join(words[fits:])
