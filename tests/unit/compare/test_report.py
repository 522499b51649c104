"""The report opens without a network and runs nothing, whatever names and captions hold."""

import csv
import io
from functools import partial

import pytest
from inert_pages import Page, has_strict_policy, is_inert
from plain_encoder import PlainEncoder
from tiny_checkpoints import COLOURS, square

from clipdemo.compare import report as compare_report
from clipdemo.compare import tables, truth
from clipdemo.compare.costs import Cost, Speed
from clipdemo.compare.ranks import compare
from clipdemo.compare.report import ReportDetails
from clipdemo.models.loader import LoadCost
from clipdemo.scoring.prompts import Templates
from clipdemo.scoring.score import score_matrix

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=http://evil.test/x.png onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table><iframe src=//evil.test>",
    "=HYPERLINK(1)",
]


class Backwards(PlainEncoder):
    """Sees every colour as its opposite."""

    def encode_images(self, items):
        return -super().encode_images(items)


@pytest.fixture
def compared(item_of):
    return partial(_compared, item_of)


def _compared(item_of, names, captions, titles=("plain", "backwards")):
    items = [item_of(square(colour), name) for colour, name in zip(COLOURS, names, strict=False)]
    encoders = [PlainEncoder(titles[0]), Backwards(titles[1])]
    comparison = compare([score_matrix(encoder, items, captions) for encoder in encoders])
    asked = truth.from_names(items)
    costs = {
        title: Cost(encoder.checkpoint, "cpu", "float32", LoadCost(1.25, 5_000_000, None), None)
        for title, encoder in zip(titles, encoders, strict=True)
    }
    recalls = {
        title: truth.recall(encoder, asked, Templates())
        for title, encoder in zip(titles, encoders, strict=True)
    }
    return comparison, list(titles), ReportDetails(Templates(("a <b> {}",)), costs, recalls, asked)


def rows_of(data):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))


def test_hostile_text_stays_text_wherever_it_stands(compared):
    comparison, titles, facts = compared(HOSTILE, HOSTILE, titles=HOSTILE[:2])
    page = Page(compare_report.comparison_html(comparison, titles, facts, 3))
    assert is_inert(page)
    assert has_strict_policy(page)
    for text in HOSTILE:
        assert text in page.text


def test_the_report_says_all_that_the_page_says(compared):
    comparison, titles, facts = compared(["red.png", "green.png", "blue.png"], ["red", "a blue thing"])
    page = Page(compare_report.comparison_html(comparison, titles, facts, 2))
    assert is_inert(page)
    for words in (
        "never raw cosines",
        "Templates: a <b> {}",
        "plain and backwards",
        "-1.00",
        "same in first 2",
        "3rd under plain",
        "3rd under backwards",
        "Where they disagree most",
        "image → caption",
        "100.0 %",
        "processor core",
        "cpu",
        "float32",
    ):
        assert words in page.text
    assert comparison.matrices[0].checkpoint.revision in page.text


def test_models_that_agree_on_everything_have_no_disputes(compared):
    comparison, titles, facts = compared(["red.png"], ["red"])
    page = Page(compare_report.comparison_html(comparison, titles, facts, 5))
    assert "Nowhere: every model puts every image in the same place" in page.text
    assert "nan" not in page.text


def test_ranks_as_csv_hold_every_image_and_caption_and_no_formulas(compared):
    comparison, titles, facts = compared(HOSTILE, ["red", "=1+1"])
    rows = rows_of(tables.ranks_csv(comparison, titles, facts.templates))
    assert len(rows) == 10
    assert rows[4]["image"] == "'=HYPERLINK(1)"
    assert rows[5]["caption"] == "'=1+1"
    assert {row["rank under plain"] for row in rows[:5]} == {"1", "2", "3", "4", "5"}


def test_costs_as_csv_say_what_was_measured_how_and_where():
    encoder = PlainEncoder()
    speed = Speed(2.5, 0.5, 4, 16, 9)
    known = {"plain": Cost(encoder.checkpoint, "cuda", "float16", LoadCost(1.0, 10**6, 2 * 10**6), speed)}
    row = rows_of(tables.costs_csv(known))[0]
    assert (row["ms an image"], row["images a batch"], row["device"], row["dtype"]) == (
        "2.5",
        "4",
        "cuda",
        "float16",
    )
    assert (row["memory, MB"], row["download, MB"], row["id"]) == ("1.0", "2.0", "plain")
    assert int(row["cores"]) >= 1


def test_what_is_not_known_yet_is_empty():
    row = tables.cost_row("plain", Cost(PlainEncoder().checkpoint, "cpu", "float32", None, None))
    assert row["load, s"] is row["ms an image"] is row["memory, MB"] is row["download, MB"] is None
    assert rows_of(tables.costs_csv({})) == []


@pytest.mark.parametrize("left_out", [0, 3])
def test_what_was_asked_among_what_is_said(compared, left_out):
    _, _, facts = compared(["red.png", "green.png"], ["red"])
    asked = truth.Truth(facts.truth.images, facts.truth.captions, facts.truth.pairs, left_out)
    words = tables.truth_sentence(asked, 7)
    assert words.startswith("2 of 7 images have a right caption")
    assert ("Only the first" in words) == bool(left_out)
