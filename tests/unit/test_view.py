"""A view says what a tower is fed; it travels as JSON and need not be applied twice."""

import json

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from clipdemo.errors import ImageError
from clipdemo.models.embedded.towers import VIEW as EMBEDDED
from clipdemo.types import ImageItem
from clipdemo.view import Area, TowerView, crop_to_max_aspect, seen

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
CLIP = TowerView(224, BICUBIC, (224, 224))
VIEWS = {
    "clip": CLIP,
    "larger than its crop": TowerView(37, BICUBIC, (21, 30)),
    "squashed": TowerView((50, 40), BILINEAR),
    "shorter side": TowerView(40, BICUBIC),
    "embedded": EMBEDDED,
}
SIZES = [(512, 384), (384, 512), (225, 224), (224, 224), (60, 61), (900, 31), (31, 900), (1, 50), (1, 1)]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_survives_json(view):
    assert TowerView.from_json(json.loads(json.dumps(view.as_json()))) == view


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_size_of_an_input_is_known_beforehand(view, size):
    assert view.of(Image.new("RGB", size)).size == view.output(*size)


@pytest.mark.parametrize(
    "size", [(w, h) for w in (1, 31, 333, 1000, 1100) for h in (1, 450, 999, 4000)], ids=str
)
def test_an_area_keeps_proportions_in_steps_of_32(size):
    width, height = EMBEDDED.output(*size)
    assert width % 32 == height % 32 == 0
    assert 0.85 * 320**2 < width * height < 1.15 * 320**2
    assert 1 / 4 <= width / height <= 4
    if 1 / 4 < size[0] / size[1] < 4:
        assert 0.75 < (width / height) / (size[0] / size[1]) < 1.33


def test_an_item_in_a_view_is_not_resized_again():
    """Applying a view twice is not the same as once, so an item says what it went through."""
    for view in (EMBEDDED, VIEWS["larger than its crop"]):
        image = view.of(noise((1105, 1000)))
        assert view.of(image) != image
        assert ImageItem("x", "x", image, b"", 1105, 1000, "bytes", view).seen_by(view) is image


def test_a_model_copy_is_seen_through_any_view_and_a_view_by_its_own_tower_only():
    image = noise((90, 60))
    copy = ImageItem("x", "x", image, b"", 90, 60, "bytes")
    assert copy.seen_by(None) is image
    assert copy.seen_by(CLIP) == CLIP.of(image) == seen(image, CLIP)
    prepared = ImageItem("x", "x", CLIP.of(image), b"", 90, 60, "bytes", CLIP)
    for other in (None, EMBEDDED, TowerView(224, BILINEAR, (224, 224))):
        with pytest.raises(ImageError, match="another checkpoint"):
            prepared.seen_by(other)


@pytest.mark.parametrize("size", [(1536, 1), (3, 900)], ids=str)
def test_a_strip_is_cropped_to_its_middle_first(size):
    image = noise(size)
    middle = crop_to_max_aspect(image)
    assert max(middle.size) <= 20 * min(middle.size) + 1
    assert CLIP.of(image) == CLIP.of(middle)


def torchvision_offset(length, crop):
    """Of ``CenterCrop``: ``int(round((length - crop) / 2.0))``, in which Python rounds half to even."""
    return round((length - crop) / 2)


@pytest.mark.parametrize("border", range(9))
def test_the_crop_is_that_of_transformers_and_differs_from_torchvision_at_every_other_odd_border(border):
    view = TowerView(8, BICUBIC, (8, 8))
    columns = np.zeros((8, 8 + border, 3), np.uint8)
    columns[:] = np.arange(8 + border)[None, :, None]
    left = np.asarray(view.cropped(Image.fromarray(columns)))[0, 0, 0]
    assert left == border // 2
    assert torchvision_offset(8 + border, 8) - left == (1 if border % 4 == 3 else 0)


@pytest.mark.parametrize(
    ("size", "shift"),
    [
        ((123, 456), (0, 0)),
        ((208, 495), (0, 0)),
        ((321, 421), (0, 0)),
        ((389, 535), (0, 0)),
        ((416, 264), (0, 0)),
        ((456, 123), (0, 0)),
        ((524, 316), (1, 0)),
    ],
    ids=str,
)
def test_one_of_clip_retrievals_seven_photographs_is_cropped_one_pixel_further_left(size, shift):
    """The sizes of the images in its tests/test_clip_inference; OpenAI's code made the tensors beside them.

    With torchvision's offset, ours equal all seven to the last bit; with transformers', the first six.
    """
    resized = CLIP.resized(*size)
    ours = [(length - 224) // 2 for length in resized]
    theirs = [torchvision_offset(length, 224) for length in resized]
    assert tuple(np.subtract(theirs, ours)) == shift


def test_an_area_is_what_it_says():
    assert Area(320, 32, 4).of(1, 1) == (320, 320)
    assert Area(320, 32, 4).of(9, 1) == (640, 160)
