import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipdemo.output import pictures
from clipdemo.output.pictures import MatrixLabels
from clipdemo.scoring.matrix import cosine_sheet
from clipdemo.types import Hit


def test_the_grid_is_a_picture_with_every_tile(colour_items):
    hits = [Hit(n + 1, n, 0.5, 50.0) for n in range(len(colour_items))]
    one, two = (
        Image.open(io.BytesIO(pictures.grid_png([("a heading", hits)] * n, colour_items, "a footer")))
        for n in (1, 2)
    )
    assert one.format == "PNG"
    assert two.height > 1.8 * one.height
    colours = set(one.convert("RGB").resize((200, 200), Image.Resampling.NEAREST).get_flattened_data())
    for item in colour_items:
        expected = item.image.getpixel((0, 0))
        assert any(max(abs(a - b) for a, b in zip(expected, seen, strict=True)) < 12 for seen in colours), (
            item.name
        )


def test_a_small_image_is_not_enlarged_in_the_grid(colour_items):
    data = pictures.grid_png([("a heading", [Hit(1, 0, 0.5, 50.0)])], colour_items, "a footer")
    with Image.open(io.BytesIO(data)) as opened:
        grid = opened.convert("RGB")
    side = max(colour_items[0].image.size)
    assert side < 200
    left, top, tile = 16, 56, 260
    assert grid.getpixel((left + tile // 2, top + tile // 2)) != (255, 255, 255)
    assert grid.getpixel((left + tile // 2 - side, top + tile // 2)) == (255, 255, 255)


def test_an_empty_grid_is_a_picture(colour_items):
    assert (
        Image.open(io.BytesIO(pictures.grid_png([("x" * 500, [])], colour_items, "y" * 900))).size[0] == 640
    )


VALUES = np.array([[0.1, 0.3, 0.2], [0.4, np.nan, 0.0]], dtype=np.float32)


def matrix(
    values=VALUES, rows=("a.jpg", "b.jpg"), columns=("a cat", "a dog", "a cow"), thumbnails=None, ends=None
):
    sheet = cosine_sheet(values, decimals=2)
    if ends:
        sheet = replace(sheet, low=ends[0], high=ends[1])
    labels = MatrixLabels(rows, columns, "Cosine under tiny", "templates: {}", thumbnails)
    return Image.open(io.BytesIO(pictures.matrix_png(sheet, labels))).convert("RGB")


def test_the_highest_and_lowest_cells_have_the_colours_of_the_ends():
    with_numbers = matrix()
    colours = {colour for _, colour in with_numbers.getcolors(1 << 20)}
    assert (0x00, 0x22, 0x4E) in colours
    assert (0xFE, 0xE8, 0x38) in colours
    other_ends = matrix(ends=(0.0, 1.0))
    area = other_ends.crop((206, 290, 458, 402))  # the cells alone, without the colour bar
    assert (0xFE, 0xE8, 0x38) not in {colour for _, colour in area.getcolors(1 << 20)}


def test_a_cell_without_a_value_is_white():
    picture = matrix()
    left, top, wide, high = 206, 290, 84, 56
    assert picture.getpixel((left + 1 * wide + 5, top + 1 * high + 5)) == (255, 255, 255)
    assert picture.getpixel((left + 0 * wide + 5, top + 1 * high + 5)) == (0xFE, 0xE8, 0x38)


def test_the_matrix_has_a_thumbnail_for_each_row(colour_items):
    values = np.zeros((len(colour_items), 2), np.float32)
    names = [item.name for item in colour_items]
    thumbnails = [item.thumbnail for item in colour_items]
    picture = matrix(values, names, ["x", "y"], thumbnails=thumbnails)
    for row, item in enumerate(colour_items):
        seen, expected = picture.getpixel((206 + 28, 290 + row * 56 + 28)), item.image.getpixel((5, 5))
        assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) < 12, item.name


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (200, 200)])
def test_a_matrix_of_any_size_is_a_picture(shape):
    picture = matrix(np.zeros(shape, np.float32), ["n" * 300] * shape[0], ["犬\n🐕 كلب"] * shape[1])
    assert picture.width >= 760
    assert picture.height > shape[0] * 16


def test_a_strip_has_every_thumbnail_in_order(colour_items):
    thumbnails = [item.thumbnail for item in colour_items]
    for down in (True, False):
        strip = Image.open(io.BytesIO(pictures.thumbnail_strip(thumbnails, 24, down=down)))
        assert strip.size == ((24, 24 * 8) if down else (24 * 8, 24))
        for place, item in enumerate(colour_items):
            centre = (12, place * 24 + 12) if down else (place * 24 + 12, 12)
            seen = zip(strip.getpixel(centre), item.image.getpixel((5, 5)), strict=True)
            assert max(abs(a - b) for a, b in seen) < 14, item.name
