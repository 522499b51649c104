"""The report opens offline and runs no script, whatever names and captions contain."""

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
from clipdemo.compare.ranks import compare_matrices
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
def comparison_of(item_of):
    return partial(_comparison_of, item_of)


def _comparison_of(item_of, names, captions, titles=("plain", "backwards")):
    items = [item_of(square(colour), name) for colour, name in zip(COLOURS, names, strict=False)]
    encoders = [PlainEncoder(titles[0]), Backwards(titles[1])]
    comparison = compare_matrices([score_matrix(encoder, items, captions) for encoder in encoders])
    ground_truth = truth.from_names(items)
    costs = {
        title: Cost(encoder.checkpoint, "cpu", "float32", LoadCost(1.25, 5_000_000, None), None)
        for title, encoder in zip(titles, encoders, strict=True)
    }
    recalls = {
        title: truth.recall(encoder, ground_truth, Templates())
        for title, encoder in zip(titles, encoders, strict=True)
    }
    return comparison, list(titles), ReportDetails(Templates(("a <b> {}",)), costs, recalls, ground_truth)


def rows_of(data):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))


def test_hostile_text_stays_text_everywhere(comparison_of):
    comparison, titles, details = comparison_of(HOSTILE, HOSTILE, titles=HOSTILE[:2])
    page = Page(compare_report.comparison_html(comparison, titles, details, 3))
    assert is_inert(page)
    assert has_strict_policy(page)
    for text in HOSTILE:
        assert text in page.text


def test_the_report_shows_all_that_the_page_shows(comparison_of):
    comparison, titles, details = comparison_of(["red.png", "green.png", "blue.png"], ["red", "a blue thing"])
    page = Page(compare_report.comparison_html(comparison, titles, details, 2))
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


def test_models_that_agree_on_everything_have_no_disputes(comparison_of):
    comparison, titles, details = comparison_of(["red.png"], ["red"])
    page = Page(compare_report.comparison_html(comparison, titles, details, 5))
    assert "Nowhere: every model puts every image in the same place" in page.text
    assert "nan" not in page.text


def test_ranks_as_csv_have_every_image_and_caption_and_no_formulas(comparison_of):
    comparison, titles, details = comparison_of(HOSTILE, ["red", "=1+1"])
    rows = rows_of(tables.ranks_csv(comparison, titles, details.templates))
    assert len(rows) == 10
    assert rows[4]["image"] == "'=HYPERLINK(1)"
    assert rows[5]["caption"] == "'=1+1"
    assert {row["rank under plain"] for row in rows[:5]} == {"1", "2", "3", "4", "5"}


def test_costs_as_csv_say_how_and_where_they_were_measured():
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


def test_unknown_costs_are_empty():
    row = tables.cost_row("plain", Cost(PlainEncoder().checkpoint, "cpu", "float32", None, None))
    assert row["load, s"] is row["ms an image"] is row["memory, MB"] is row["download, MB"] is None
    assert rows_of(tables.costs_csv({})) == []


@pytest.mark.parametrize("left_out", [0, 3])
def test_the_size_of_the_ground_truth_is_shown(comparison_of, left_out):
    _, _, details = comparison_of(["red.png", "green.png"], ["red"])
    ground_truth = truth.Truth(details.truth.images, details.truth.captions, details.truth.pairs, left_out)
    words = tables.truth_sentence(ground_truth, 7)
    assert words.startswith("2 of 7 images have a right caption")
    assert ("Only the first" in words) == bool(left_out)
