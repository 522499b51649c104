"""Images named on the command line: each file is scored once, in order, and bad ones are left out."""

import csv
import io
import json
import os

import pytest
from pictures import png
from PIL import Image
from plain_encoder import SQUARES, PlainEncoder
from tiny_checkpoints import COLOURS

from clipdemo.cli.scored_images import ScoringOptions, score_images
from clipdemo.errors import CaptionError, ImageError
from clipdemo.view import TowerView


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in SQUARES.items():
        (folder / name).write_bytes(data)
    return folder


def scored(images, captions, *, templates=(), encoder=None, seen=None, thumbnails=False):
    options = ScoringOptions(list(map(str, images)), captions, templates, 3, 2, thumbnails)
    progress = (lambda *done: seen.append(done)) if seen is not None else (lambda *_: None)
    return score_images(options, encoder or PlainEncoder(), progress)


def read(data):
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))


def test_each_caption_ranks_its_own_colour_first(photos):
    found = scored([photos], [f"a {colour} square" for colour in COLOURS])
    assert found.names == sorted(SQUARES)
    for column, colour in enumerate(COLOURS):
        hits = found.hits(column)
        assert found.names[hits[0].index] == f"{colour}.png"
        assert hits[0].cosine == pytest.approx(1, abs=1e-6)


def test_a_file_given_twice_counts_once(photos):
    encoder = PlainEncoder()
    (photos / "copy.png").write_bytes(SQUARES["red.png"])
    found = scored([photos, photos / "red.png"], ["red"], encoder=encoder)
    assert len(found.names) == len(set(found.hashes)) == 8
    assert sum(encoder.images[name] for name in found.names) == 8


def test_unusable_images_are_left_out_by_name(photos):
    (photos / "page.png").write_bytes(b"<html>")
    found = scored([photos, photos / "gone.jpg", "http://127.0.0.1/a.png"], ["red"])
    assert len(found.names) == 8
    first, second, third = found.rejected
    assert first.startswith("page.png: not an image: ")
    assert "gone.jpg: no such file: " in second
    assert third.startswith("http://127.0.0.1/a.png: blocked: ")


def test_having_only_unusable_images_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(ImageError, match=r"none of the images.*gone\.png"):
        scored([tmp_path / "gone.png"], ["red"])


def test_a_caption_with_a_syntax_error_is_an_error(photos):
    with pytest.raises(CaptionError):
        scored([photos], ["red ++ ^0.5 ++"])


def test_json_csv_text_and_png_agree(photos):
    found = scored([photos / "red.png", photos / "blue.png"], ["red", "=blue"], thumbnails=True)
    ranking = json.loads(found.ranking_json(1))
    assert ranking["queries"][0]["caption"] == "red"
    (hit,) = ranking["queries"][0]["hits"]
    assert (hit["rank"], hit["name"], hit["sha256"]) == (1, str(photos / "red.png"), found.hashes[0])
    assert hit["cosine"] == pytest.approx(1)
    matrix = json.loads(found.matrix_json())
    assert matrix["captions"] == ["red", "=blue"]
    assert [image["sha256"] for image in matrix["images"]] == found.hashes
    header, *rows = read(found.matrix_csv())
    assert header[:3] == ["", "red", "'=blue"]
    assert [[float(cell) for cell in row[1:3]] for row in rows] == [
        pytest.approx(line, abs=1e-6) for line in found.cosine.tolist()
    ]
    assert matrix["cosine"] == [pytest.approx(line, abs=1e-6) for line in found.cosine.tolist()]
    lines = read(found.ranking_csv())
    assert len(lines) == 1 + 2 * 2
    with Image.open(io.BytesIO(found.matrix_png())) as picture:
        assert picture.format == "PNG"
    assert "cosine  1.000" in found.ranking_text(2)


def test_images_are_decoded_for_the_encoder_and_thumbnails_made_only_for_a_picture(photos):
    class Looking(PlainEncoder):
        view = TowerView((9, 7), 3)

        def encode_images(self, items):
            named = [item for item in items if item.source != "sample"]
            assert all((item.view, item.image.size) == (self.view, (9, 7)) for item in named)
            return super().encode_images(items)

    assert not any(scored([photos], ["red"], encoder=Looking()).thumbnails)
    assert all(scored([photos], ["red"], encoder=Looking(), thumbnails=True).thumbnails)


def test_images_are_counted_as_they_are_encoded(photos):
    seen = []
    scored([photos], ["red"], seen=seen)
    assert [done for done, *_ in seen] == [3, 6, 8]


def test_a_template_is_filled(photos):
    encoder = PlainEncoder()
    scored([photos], ["red"], templates=["a photo of {}", "{} paint"], encoder=encoder)
    assert {"a photo of red", "red paint"} <= set(encoder.captions)
    assert "red" not in encoder.captions


def test_a_name_that_is_not_utf8_is_shown_with_replacement_characters(tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"photo-\xff.png")
    try:
        with open(odd, "wb") as file:
            file.write(png("red"))
    except OSError:
        pytest.skip("this file system refuses such names")
    for arguments in ([tmp_path], [os.fsdecode(odd)]):
        found = scored(arguments, ["red"], thumbnails=True)
        found.ranking_text(1).encode()
        found.ranking_csv()
        found.matrix_png()
        assert found.names[0].endswith("photo-\ufffd.png")
