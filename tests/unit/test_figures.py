import io

from PIL import Image

from clipdemo import figures
from clipdemo.types import Hit


def test_the_grid_is_a_picture_with_every_tile(colour_items):
    hits = [Hit(n + 1, n, 0.5, 50.0) for n in range(len(colour_items))]
    one, two = (
        Image.open(io.BytesIO(figures.grid_png([("a heading", hits)] * n, colour_items, "a footer")))
        for n in (1, 2)
    )
    assert one.format == "PNG"
    assert two.height > 1.8 * one.height
    colours = set(one.convert("RGB").resize((200, 200), Image.Resampling.NEAREST).get_flattened_data())
    for item in colour_items:
        wanted = item.image.getpixel((0, 0))
        assert any(max(abs(a - b) for a, b in zip(wanted, seen, strict=True)) < 12 for seen in colours), (
            item.name
        )


def test_a_grid_of_nothing_is_still_a_picture(colour_items):
    assert Image.open(io.BytesIO(figures.grid_png([("x" * 500, [])], colour_items, "y" * 900))).size[0] == 640
