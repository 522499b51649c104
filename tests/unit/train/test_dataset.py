"""Pairs for training: each image in one split, whatever its name; splits by content; too few images."""

import pytest
from plain_encoder import SQUARES, Shelf, square_png, table_of

from clipdemo.errors import TableError, TrainingError
from clipdemo.limits import Limits
from clipdemo.tables.row import SPLITS
from clipdemo.train.dataset import ImageReader, read_pairs
from clipdemo.view import TowerView


def read(rows, header=("image", "caption"), files=None, seed=0, known=(), *, view=None, looked_at=None):
    encoded = []

    def encode(items):
        encoded.extend(item.name for item in items)
        if looked_at is not None:
            looked_at.extend(items)

    reader = ImageReader(
        Shelf(files or SQUARES).locate,
        Limits(),
        lambda *progress: None,
        set(known),
        encode,
        view,
    )
    return read_pairs(table_of(rows, header), reader, seed), encoded


def many(count):
    files = {f"{n}.png": square_png("red", n + 1) for n in range(count)}
    return [(name, f"caption {name} {m}") for name in files for m in range(2)], files


def splits_of(pairs):
    return {digest: SPLITS[place] for digest, place in zip(pairs.sha256, pairs.split, strict=True)}


def test_the_random_split_depends_on_content_only_and_each_image_is_in_one_split():
    rows, files = many(40)
    copies = {f"copy of {name}": data for name, data in files.items()}
    pairs, encoded = read([*rows, *((name, f"again {name}") for name in copies)], files=files | copies)
    assert len(pairs.sha256) == len(encoded) == 40  # the same bytes are one image
    assert [pairs.image_count(split) for split in SPLITS] == [32, 4, 4]
    assert sum(len(pairs.of(split)) for split in SPLITS) == len(pairs.pairs) == 120
    images = [set(pairs.of(split)[:, 0].tolist()) for split in SPLITS]
    assert sum(map(len, images)) == len(set().union(*images)) == 40
    assert splits_of(read(rows[::-1], files=files)[0]) == splits_of(pairs)  # whatever the order and the names
    assert splits_of(read(rows, files=files, seed=1)[0]) != splits_of(pairs)


def test_an_image_in_two_splits_stays_in_the_later_one_even_under_another_name():
    rows = [
        ("red.png", "one", "train"),
        ("copy.png", "two", "test"),
        ("blue.png", "three", "train"),
        ("green.png", "four", "train"),
        ("pink.png", "five", "Validation"),
        ("blue.png", "six", "dev"),
        ("black.png", "seven", "train"),
    ]
    files = {**SQUARES, "copy.png": SQUARES["red.png"]}
    pairs, _ = read(rows, ("image", "caption", "split"), files)
    assert [pairs.image_count(split) for split in SPLITS] == [2, 2, 1]
    assert "2 images were in two splits" in pairs.notes[0]


def test_rows_with_unusable_images_are_left_out():
    rows = [(name, f"a {name}") for name in SQUARES]
    pairs, _ = read([*rows, ("gone.png", "x"), ("gone.png", "y"), ("red.png", "")])
    assert pairs.left_out == {"no such file": 2, "no caption": 1}
    assert len(pairs.sha256) == 8


def test_known_images_are_read_but_not_decoded_or_encoded():
    rows = [(name, f"a {name}") for name in SQUARES]
    known = read(rows)[0].sha256[:3]
    pairs, encoded = read(rows, known=known)
    assert len(pairs.sha256) == 8
    assert len(encoded) == 5


def test_images_are_decoded_for_the_tower_that_encodes_them():
    items = []
    view = TowerView((9, 7), 3)
    read([(name, f"a {name}") for name in SQUARES], view=view, looked_at=items)
    assert {(item.view, item.image.size) for item in items} == {(view, (9, 7))}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images_are_an_error_with_the_reasons(count):
    rows = [(name, f"a {name}") for name in list(SQUARES)[:count]]
    with pytest.raises(TrainingError, match=rf"has {count} usable images.*1 rows: no such file"):
        read([*rows, ("gone.png", "x")])


def test_an_unknown_split_and_a_single_caption_are_errors():
    with pytest.raises(TableError, match="row 1 has the split 'maybe'"):
        read([("red.png", "x", "maybe")], ("image", "caption", "split"))
    with pytest.raises(TrainingError, match="the same caption"):
        read([(name, "a square") for name in SQUARES])
