"""An image decoded for one tower is what that tower is fed, without a copy in between."""

import io

import numpy as np
import pytest
from pictures import RED, close, encode, halves, noise, orientation
from PIL import Image, ImageOps

from clipdemo.images import decode, pool
from clipdemo.images.decode import MARGIN, THUMBNAIL_SIDE, decode_image, recipe
from clipdemo.models.embedded.towers import VIEW as EMBEDDED
from clipdemo.samples import SAMPLES
from clipdemo.view import TowerView

BICUBIC = Image.Resampling.BICUBIC
VIEWS = {
    "clip": TowerView(224, BICUBIC, (224, 224)),
    "larger than its crop": TowerView(240, BICUBIC, (224, 200)),
    "squashed": TowerView((240, 200), Image.Resampling.BILINEAR),
    "embedded": EMBEDDED,
}
SIZES = [(640, 480), (481, 640), (225, 224), (61, 60), (20, 1), (900, 31), (31, 1201), (2000, 20)]
by_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def whole(data):
    """The reference: every pixel decoded, upright, RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def apart(one, two):
    assert one.size == two.size
    return np.abs(np.asarray(one, dtype=np.int16) - np.asarray(two, dtype=np.int16))


def photo(size):
    with Image.open(SAMPLES / "astronaut.jpg") as image:
        return image.convert("RGB").resize(size, BICUBIC)


@by_view
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_it_equals_the_view_of_the_whole_picture(kind, size, view):
    data = encode(noise(size), kind, quality=90)
    item = decode_image(data, "x", view=view)
    assert (item.width, item.height, item.view) == (*size, view)
    assert apart(item.image, view.of(whole(data))).max() == 0


@by_view
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(3000, 2250), (1501, 2003), (1200, 900)], ids=str)
def test_a_large_picture_decoded_small_looks_like_one_decoded_whole(kind, size, view):
    data = encode(photo(size), kind, quality=90)
    assert apart(decode_image(data, "x", view=view).image, view.of(whole(data))).mean() < 1  # of 255 levels


def test_a_jpeg_is_decoded_at_no_less_than_a_margin_around_the_view(monkeypatch):
    drafted = []
    draft = decode.JpegImageFile.draft
    monkeypatch.setattr(
        decode.JpegImageFile,
        "draft",
        lambda self, *args: (draft(self, *args), drafted.append(self.size))[0],
    )
    for size in ((4000, 3200), (1200, 960), (800, 640)):
        decode_image(encode(halves(size=size), "JPEG"), "x", view=VIEWS["clip"])
    assert drafted == [(1000, 800), (600, 480), (800, 640)]
    assert all(min(size) >= MARGIN * 224 for size in drafted)


@by_view
@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("size", [(81, 60), (600, 803), (1301, 1000), (45, 1)], ids=str)
def test_the_view_is_upright(turn, size, view):
    data = encode(photo(size), "JPEG", exif=orientation(turn))
    item = decode_image(data, "x", view=view)
    upright = whole(data)
    assert (item.width, item.height) == upright.size
    assert apart(item.image, view.of(upright)).mean() < 1  # of 255 levels


@by_view
@pytest.mark.parametrize("size", [(800, 400), (3000, 1500), (90, 1800), (100, 5000)], ids=str)
def test_the_thumbnail_shows_the_whole_picture(size, view):
    data = encode(halves(size=size), "JPEG")
    item = decode_image(data, "x", view=view)
    thumbnail = Image.open(io.BytesIO(item.thumbnail))
    assert max(thumbnail.size) == THUMBNAIL_SIDE
    assert close(thumbnail.getpixel((0, thumbnail.height // 2)), RED)
    bare = decode_image(data, "x", view=view, thumbnail=False)
    assert bare.thumbnail == b""
    assert bare.image == item.image


@by_view
@pytest.mark.parametrize("size", [(640, 480), (31, 1201), (2000, 1100)], ids=str)
def test_a_worker_returns_the_same(size, view):
    data = encode(noise(size), "JPEG")
    here, there = decode.decode_image(data, "x", view=view), pool.decode_image(data, "x", view=view)
    assert here.image == there.image
    assert (here.thumbnail, here.view, here.width) == (there.thumbnail, there.view, there.width)


def test_the_recipe_names_the_view():
    assert len({recipe(view) for view in (None, *VIEWS.values())}) == 1 + len(VIEWS)
