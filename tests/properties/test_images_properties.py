"""Any bytes decode to an image within the documented bounds, or raise ImageError."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, seed_files
from PIL import Image

from clipdemo.errors import ImageError
from clipdemo.images.decode import decode_image
from clipdemo.limits import Limits

LIMITS = Limits(pixels=4_000_000)  # a mutated header may declare a huge image, which would take seconds


FILES = seed_files()
HARSH = st.sampled_from([b"\0", b"\xff", b"\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b""])


@st.composite
def mutated(draw):
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 5))):
        # Decoders fail mostly on headers, so half of the changes are made there.
        end = len(data) if draw(st.booleans()) else min(len(data), 120)
        at = draw(st.integers(0, end))
        new = draw(HARSH | st.binary(max_size=6))
        data[at : at + draw(st.integers(0, 6))] = new
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


def check(data):
    try:
        item = decode_image(data, "x", limits=LIMITS)
    except ImageError:
        return
    assert item.image.mode == "RGB"
    assert min(item.image.size) >= 1
    assert min(item.image.size) <= 384
    assert max(item.image.size) <= 1536
    assert item.width * item.height <= LIMITS.pixels
    assert item.thumbnail.startswith(b"\xff\xd8")
    item.image.tobytes()


def test_the_valid_files_are_valid():
    for data in FILES:
        assert decode_image(data, "x", limits=LIMITS).image.mode == "RGB"


@pytest.mark.filterwarnings("ignore::UserWarning")  # a warning about mutated EXIF must not end the decoding
@settings(max_examples=600)
@given(mutated())
def test_a_mutated_file_gives_an_image_or_an_image_error(data):
    check(data)


@settings(max_examples=150)
@given(mutated())
def test_a_mutated_file_raises_no_warning_even_as_an_error(data):
    check(data)


@settings(max_examples=200)
@given(st.sampled_from([data[:12] for data in FILES] + [b""]), st.binary(max_size=300))
def test_random_bytes_give_an_image_error(start, rest):
    with pytest.raises(ImageError, match=r"^.{20,200}$"):
        decode_image(start + rest, "x", limits=LIMITS)


@settings(max_examples=40)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.sampled_from(["PNG", "BMP", "JPEG", "WEBP", "GIF", "TIFF"]),
    st.sampled_from(["RGB", "L", "P"]),
)
def test_any_size_keeps_its_proportions_and_bounds(width, height, kind, mode):
    image = Image.new("L", (width, height), 100)
    image = image if (kind, mode) in {("JPEG", "P"), ("WEBP", "P")} else image.convert(mode)
    item = decode_image(encode(image, kind), "x")
    assert (item.width, item.height) == (width, height)
    w, h = item.image.size
    scale = min(1, 384 / min(width, height), 1536 / max(width, height))
    assert abs(w - width * scale) <= 1
    assert abs(h - height * scale) <= 1
    assert all(97 <= low <= high <= 103 for low, high in item.image.getextrema())


@settings(max_examples=25)
@given(st.sampled_from(FILES), st.text(max_size=20))
def test_the_same_bytes_give_the_same_item_under_any_name(data, name):
    one, two = decode_image(data, name), decode_image(data, "x")
    assert (one.sha256, one.thumbnail, one.name) == (two.sha256, two.thumbnail, name)
    assert one.image.tobytes() == two.image.tobytes()
