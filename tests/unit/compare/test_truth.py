import numpy as np
import pytest
from PIL import Image
from plain_encoder import PlainEncoder, table_of
from tiny_checkpoints import square

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.judge import judge
from clipdemo.compare import truth
from clipdemo.scoring.prompts import Templates


@pytest.fixture
def squares(item_of):
    return [item_of(square(colour), f"{colour}.png") for colour in ("red", "green", "blue")]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("cat.jpg", "cat"),
        ("a-cup_of  coffee.v2.jpeg", "a cup of coffee.v2"),
        ("inner\\folder/red-square.png", "red square"),
        ("https://example.org/pics/red%20dog.jpg?size=3#x", "red dog"),
        ("---.png", ""),
        ("http://[a-cat.png", "[a cat"),
        ("", ""),
    ],
)
def test_a_file_name_becomes_a_caption(name, caption):
    assert truth.caption_of(name) == caption


def test_file_names_become_the_right_captions(squares, item_of):
    nameless = item_of(Image.new("RGB", (8, 8)), "-.png")
    right = truth.from_names([*squares, nameless])
    assert right.captions == ("red", "green", "blue")
    assert right.images == tuple(squares)
    assert right.pairs.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_rows_find_their_images_by_name_and_each_pair_counts_once(squares):
    rows = [
        ("photos/red.png", "a red square"),
        ("red.png", "something warm"),
        ("red.png", "a red square"),
        ("blue.png", "something cold"),
        ("gone.png", "nothing"),
        ("green.png", "  "),
        ("green.png", "x" * 5000),
    ]
    right = truth.from_table(table_of(rows), squares)
    assert [item.name for item in right.images] == ["red.png", "blue.png"]
    assert right.captions == ("a red square", "something warm", "something cold")
    assert right.pairs.tolist() == [[0, 0], [0, 1], [1, 2]]


def test_an_ambiguous_file_name_is_not_guessed(item_of):
    items = [item_of(square("red"), "a/x.png"), item_of(square("blue"), "b/x.png")]
    right = truth.from_table(table_of([("x.png", "which"), ("b/x.png", "the blue one")]), items)
    assert right.captions == ("the blue one",)
    assert right.images == (items[1],)


def test_too_many_pairs_are_counted_and_left_out(squares):
    rows = [("red.png", f"red number {n}") for n in range(truth.MAX_PAIRS + 7)]
    right = truth.from_table(table_of(rows), squares)
    assert (len(right.pairs), right.left_out) == (truth.MAX_PAIRS, 7)


def test_recall_is_that_of_the_audit(squares):
    """One definition: captions of the same image are not rivals, and each query is either a hit or a miss."""
    from plain_encoder import BACKGROUND, scored

    rows = [
        ("red.png", "red"),
        ("red.png", "something of pink"),
        ("green.png", "blue"),
        ("blue.png", "green"),
        ("blue.png", "a blue thing"),
    ]
    table, encoder = table_of(rows), PlainEncoder()
    summary = judge(table, scored(table, encoder), encoder.checkpoint, BACKGROUND, Footprint()).summary()
    recall = truth.recall(encoder, truth.from_table(table, squares), Templates())
    assert recall.image_to_text == summary.image_to_text
    assert recall.text_to_image == summary.text_to_image
    # Red finds red. The caption of green is "blue". "a blue thing" ties with "blue", which comes first.
    assert recall.image_to_text.recall[1] == pytest.approx(1 / 3)


def test_without_pairs_there_is_no_recall(squares):
    nothing = truth.from_table(table_of([]), squares)
    assert nothing.pairs.shape == (0, 2)
    assert truth.recall(PlainEncoder(), nothing, Templates()) is None


def test_templates_apply_to_the_right_captions(squares):
    class Recording(PlainEncoder):
        def encode_captions(self, captions):
            self.prompts = list(captions)
            return super().encode_captions(captions)

    encoder, right = Recording(), truth.from_names(squares)
    templates = Templates(("a photo of {}",))
    assert truth.recall(encoder, right, templates).text_to_image.recall[1] == 1
    assert (
        encoder.prompts == right.prompts(templates) == [f"a photo of {c}" for c in ("red", "green", "blue")]
    )
    assert np.array_equal(right.pairs[:, 0], right.pairs[:, 1])
