"""Draws rankings, score matrices and contact sheets as PNG with Pillow; must not import streamlit."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipdemo.scoring.matrix import COLOURS, Sheet
from clipdemo.types import Hit, ImageItem

_TILE, _GAP = 260, 16  # pixels: side of a picture, room around it
_HEADING = 56
_INK, _FAINT, _PAPER, _WARNING = "#1f2430", "#667085", "#ffffff", "#b54708"
# Fonts with more letters than Pillow's own, where the machine has one.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet, and the text below it.

    Attributes:
        thumbnail: JPEG bytes; empty without a picture.
    """

    thumbnail: bytes
    caption: str
    score: str
    flag: str


@dataclass(frozen=True)
class MatrixLabels:
    """The text and pictures around a drawn matrix.

    Attributes:
        row_names: top to bottom.
        column_names: left to right; written sideways.
        title: the heading.
        footer: says under which checkpoint and templates the values hold.
        row_thumbnails: JPEG bytes of each row; None where rows are captions.
    """

    row_names: Sequence[str]
    column_names: Sequence[str]
    title: str
    footer: str
    row_thumbnails: Sequence[bytes] | None = None


@dataclass(frozen=True)
class _Line:
    """One line of text below a picture; ``top`` is its distance from the picture in pixels."""

    text: str
    top: int
    size: int
    ink: str = _INK


@dataclass(frozen=True)
class _Picture:
    """JPEG bytes (or none), the lines below them, and whether a small picture is enlarged to its square."""

    thumbnail: bytes
    lines: Sequence[_Line]
    enlarge: bool = False


def grid_png(
    sections: Sequence[tuple[str, Sequence[Hit]]], items: Sequence[ImageItem], footer: str, columns: int = 5
) -> bytes:
    """Rankings as one picture: a heading and its tiles for each section, ``footer`` below.

    Args:
        sections: (heading, hits) of each ranking, top to bottom.
        items: what ``Hit.index`` points into.
        footer: says under which checkpoint and templates the scores hold.
        columns: most tiles in a row.
    """
    pictures = [
        (heading, [_ranked_picture(hit, items[hit.index]) for hit in hits]) for heading, hits in sections
    ]
    return _pictures_png(pictures, footer, columns, text_height=54)


def contact_sheet_png(tiles: Sequence[Tile], footer: str, columns: int = 5) -> bytes:
    """Tiles in rows, ``footer`` below: each picture with its caption, score and flag."""
    return _pictures_png([("", [_tile_picture(tile) for tile in tiles])], footer, columns, text_height=88)


def _ranked_picture(hit: Hit, item: ImageItem) -> _Picture:
    score = f"cosine {hit.cosine:.3f} · percentile {hit.whole_percentile}"
    return _Picture(item.thumbnail, [_Line(f"{hit.rank}  {item.name}", 6, 17), _Line(score, 28, 15, _FAINT)])


def _tile_picture(tile: Tile) -> _Picture:
    first, second = _two_lines(tile.caption, 16, _TILE)
    return _Picture(
        tile.thumbnail,
        [
            _Line(first, 6, 16),
            _Line(second, 26, 16),
            _Line(tile.score, 48, 14, _FAINT),
            _Line(tile.flag, 66, 14, _WARNING),
        ],
        enlarge=True,
    )


def _pictures_png(
    sections: Sequence[tuple[str, Sequence[_Picture]]], footer: str, columns: int, text_height: int
) -> bytes:
    """Pictures in rows on white, section by section; a section without a heading starts at the top."""
    columns = max([1, *(min(columns, len(pictures)) for _, pictures in sections)])
    across, down = _TILE + _GAP, _TILE + _GAP + text_height
    heads = [_HEADING if heading else _GAP for heading, _ in sections]
    heights = [
        head + -(-len(pictures) // columns) * down
        for head, (_, pictures) in zip(heads, sections, strict=True)
    ]
    width = max(640, columns * across + _GAP)
    canvas = Image.new("RGB", (width, sum(heights) + 40), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for head, height, (heading, pictures) in zip(heads, heights, sections, strict=True):
        write_line(draw, (_GAP, top + 16), heading, 24, width - 2 * _GAP)
        for place, picture in enumerate(pictures):
            row, column = divmod(place, columns)
            _draw_picture(canvas, draw, (_GAP + column * across, top + head + row * down), picture)
        top += height
    write_line(draw, (_GAP, canvas.height - 28), footer, 14, width - 2 * _GAP, _FAINT)
    return png_bytes(canvas)


def _draw_picture(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: _Picture
) -> None:
    """Draw the picture in the middle of its square, and its lines below."""
    left, top = corner
    if picture.thumbnail:
        with Image.open(io.BytesIO(picture.thumbnail), formats=["JPEG"]) as thumbnail:
            fitted = thumbnail.convert("RGB")
        if picture.enlarge or max(fitted.size) > _TILE:
            fitted = ImageOps.contain(fitted, (_TILE, _TILE))
        canvas.paste(fitted, (left + (_TILE - fitted.width) // 2, top + (_TILE - fitted.height) // 2))
    for line in picture.lines:
        write_line(draw, (left, top + _TILE + line.top), line.text, line.size, _TILE, line.ink)


def _two_lines(text: str, size: int, room: int) -> tuple[str, str]:
    """As many words as fit ``room`` pixels, and the rest."""
    words, font = text[:400].split(), _font(size)
    fits = 1
    while fits < len(words) and font.getlength(" ".join(words[: fits + 1])) <= room:
        fits += 1
    return " ".join(words[:fits]), " ".join(words[fits:])


def matrix_png(sheet: Sheet, labels: MatrixLabels) -> bytes:
    """A matrix as one picture on white: cells, names, thumbnails, and a colour bar with its numbers.

    Args:
        sheet: (n_rows, n_columns); nan stays white. Up to 200 x 200 stay readable.
        labels: the text and pictures around it.
    """
    count, across = sheet.values.shape
    thumbnails = labels.row_thumbnails
    cell = int(np.clip(1600 // max(1, count, across), 16, 56))
    wide = cell if across > 12 else 84
    left, top = _GAP + 190 + (cell if thumbnails else 0), 290
    width = max(760, left + across * wide + _GAP)
    canvas = Image.new("RGB", (width, top + count * cell + 56), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write_line(draw, (_GAP, 14), labels.title, 24, width - 2 * _GAP)
    _draw_bar(canvas, draw, sheet)
    if sheet.values.size:
        cells = _coloured(sheet).resize((across * wide, count * cell), Image.Resampling.NEAREST)
        canvas.paste(cells, (left, top))
    for row, name in enumerate(labels.row_names):
        write_line(draw, (_GAP, top + row * cell + cell // 2 - 8), name, 13, 180)
        if thumbnails:
            canvas.paste(_square(thumbnails[row], cell), (left - cell, top + row * cell))
    for column, name in enumerate(labels.column_names):
        _write_sideways(canvas, (left + column * wide + wide // 2 - 9, top - 6), name)
    if wide >= 40 and cell >= 20:
        _write_numbers(draw, sheet, (left, top), (wide, cell))
    write_line(draw, (_GAP, canvas.height - 34), labels.footer, 14, width - 2 * _GAP, _FAINT)
    return png_bytes(canvas)


def _coloured(sheet: Sheet) -> Image.Image:
    """One pixel for each cell, interpolated on the colour scale; white where a value is nan."""
    stops = np.array([[int(colour[n : n + 2], 16) for n in (1, 3, 5)] for colour in COLOURS])
    places = np.linspace(0, 1, len(stops))
    positions = sheet.positions()
    pixels = np.stack([np.interp(positions, places, stops[:, channel]) for channel in range(3)], axis=-1)
    pixels[np.isnan(positions)] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, sheet: Sheet) -> None:
    """The colour scale with its unit above and its numbers below."""
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


def _write_sideways(canvas: Image.Image, foot: tuple[int, int], text: str) -> None:
    """Write a line that reads upwards from ``foot`` and takes at most 160 pixels."""
    line = Image.new("RGB", (160, 18), _PAPER)
    write_line(ImageDraw.Draw(line), (0, 1), text, 13, 160)
    canvas.paste(line.rotate(90, expand=True), (foot[0], foot[1] - 160))


def _write_numbers(
    draw: ImageDraw.ImageDraw, sheet: Sheet, corner: tuple[int, int], cell: tuple[int, int]
) -> None:
    """Write the value into the middle of each cell, dark on bright and white on dark."""
    positions = sheet.positions()
    for (row, column), value in np.ndenumerate(sheet.values):
        if not np.isnan(value):
            ink = _INK if positions[row, column] > 0.55 else _PAPER
            middle = corner[0] + (column + 0.5) * cell[0], corner[1] + (row + 0.5) * cell[1]
            draw.text(middle, f"{value:.{sheet.decimals}f}", ink, _font(13), anchor="mm")


def thumbnail_strip(thumbnails: Sequence[bytes], tile: int, *, down: bool) -> bytes:
    """The centres of thumbnails as one row or column of squares: a single picture loads fast.

    Args:
        thumbnails: JPEG bytes.
        tile: side of a square in pixels.
        down: a column instead of a row.

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
    """The centre of a thumbnail, ``side`` pixels wide and high."""
    with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as opened:
        opened.draft("RGB", (side, side))
        return ImageOps.fit(opened.convert("RGB"), (side, side), Image.Resampling.BILINEAR, bleed=0.0)


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_line(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, room: int, ink: str = _INK
) -> None:
    """Write one line of text; one wider than ``room`` pixels ends in an ellipsis."""
    font = _font(size)
    line = " ".join(text.split())
    if draw.textlength(line, font) > room:
        while line and draw.textlength(line + "…", font) > room:
            line = line[:-1]
        line += "…"
    draw.text(corner, line, fill=ink, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
