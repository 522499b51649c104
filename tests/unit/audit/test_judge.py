"""Ranks, flags and metrics of a scored table equal those computed naively from all cosines."""

import csv
import io

import numpy as np
import pytest
from plain_encoder import BACKGROUND, SQUARES, PlainEncoder, Shelf, scored, square_png, table_of
from tiny_checkpoints import COLOURS

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.judge import DUPLICATE, FLAGS, RESULT_COLUMNS, SWAPPED, WEAK, judge, result_columns
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.limits import Limits
from clipdemo.models.load import load_encoder
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.score import background
from clipdemo.tables.table import open_table


def audited(rows, *, files=SQUARES, encoder=None, scale=BACKGROUND):
    table, encoder = table_of(rows), encoder or PlainEncoder()
    ledger = scored(table, encoder, locate=Shelf(files).locate)
    return judge(table, ledger, encoder.checkpoint, scale, Footprint())


def cells(audit):
    return [dict(zip(RESULT_COLUMNS, row[2:], strict=True)) for row in audit.rows()]


RIGHT = [(f"{colour}.png", f"a {colour} square") for colour in COLOURS]


def test_right_pairs_come_first_and_are_not_flagged():
    audit = audited(RIGHT)
    for row, found in zip(RIGHT, cells(audit), strict=True):
        assert (found["rank_of_caption"], found["rank_of_image"]) == ("1", "1")
        assert (found["similarity"], found["percentile"], found["truncated"]) == ("1.000000", "100.00", "no")
        assert (found["flag"], found["error"]) == ("", "")
        assert found["best_rival_caption"] in {caption for _, caption in RIGHT if caption != row[1]}


def test_the_best_rival_is_the_nearest_other_caption():
    best = {row["best_rival_caption"] for row in cells(audited([*RIGHT[:1], *RIGHT[7:]]))}
    assert best == {"a red square", "a orange square"}


def test_two_exchanged_captions_are_likely_swapped_under_a_real_checkpoint(colour_clip):
    swapped = dict(RIGHT)
    swapped["red.png"], swapped["green.png"] = swapped["green.png"], swapped["red.png"]
    encoder = load_encoder(colour_clip, device="cpu")
    scale = background(encoder, sample_items(), NEUTRAL_CAPTIONS).captions
    audit = audited(swapped.items(), encoder=encoder, scale=scale)
    assert [SWAPPED in flags for flags in audit.flags] == [
        name in {"red.png", "green.png"} for name in swapped
    ]
    assert audit.summary().flags[SWAPPED] == 2
    assert {audit.caption(pair) for pair in audit.worst()[:2]} == {"a red square", "a green square"}
    assert audit.rival_caption(0) == "a red square"


def test_a_caption_that_fits_nothing_is_weak_but_not_swapped():
    audit = audited([*RIGHT[:3], ("yellow.png", "a black square")], scale=np.linspace(-1, 1.1, 1000))
    assert [SWAPPED in flags for flags in audit.flags] == [False] * 4
    assert [WEAK in flags for flags in audit.flags] == [False, False, False, True]


def test_the_same_bytes_under_two_names_are_flagged_and_are_not_rivals():
    rows = [("red.png", "a red square"), ("copy.png", "a red square indeed"), ("blue.png", "a blue square")]
    audit = audited(rows, files={**SQUARES, "copy.png": SQUARES["red.png"]})
    assert [DUPLICATE in flags for flags in audit.flags] == [True, True, False]
    assert audit.rivals.rank_of_caption.tolist() == [1, 1, 1]
    assert audit.rival_caption(0) == audit.rival_caption(1) == "a blue square"
    summary = audit.summary()
    assert (summary.images, summary.captions, summary.rows) == (2, 3, 3)
    assert summary.flags[DUPLICATE] == 2
    assert (summary.image_to_text.queries, summary.text_to_image.queries) == (2, 3)


def test_other_bytes_of_the_same_picture_are_rivals():
    files = {**SQUARES, "copy.png": square_png("red", 12)}
    audit = audited([("red.png", "a red square"), ("copy.png", "a red square indeed")], files=files)
    assert audit.rivals.rank_of_image.tolist() == [1, 2]
    assert audit.summary().flags[DUPLICATE] == 0


def test_the_same_name_in_many_rows_is_not_a_duplicate():
    assert audited([("red.png", "a"), ("red.png", "b"), ("blue.png", "c")]).summary().flags[DUPLICATE] == 0


# Five captions a photograph: one that fits and four that fit another colour better.
FIVE = [
    (f"{colour}.png", f"{number} a {(colour, other)[number > 0]} square")
    for colour, other in zip(COLOURS, [*list(COLOURS)[1:], "red"], strict=True)
    for number in range(5)
]


def test_five_captions_of_one_photograph_do_not_compete():
    audit = audited(FIVE)
    others = {caption for image, caption in FIVE if image != "red.png"}
    assert {row["best_rival_caption"] for row in cells(audit)[:5]} <= others
    # An image is a hit when one of its five captions is found, and each of 40 captions asks once.
    summary = audit.summary()
    assert (summary.image_to_text.queries, summary.text_to_image.queries) == (8, 40)
    # The previous photograph's captions name the same colour and, as ties, come first; red is the first.
    assert summary.image_to_text.recall[1] == 1 / 8
    assert summary.image_to_text.median_rank == 5
    assert summary.text_to_image.recall[1] == pytest.approx(8 / 40)


def naive(audit, rows):
    """Ranks and recall from one whole matrix, in plain loops."""
    images = np.concatenate(list(audit.ledger.image_blocks()))
    captions = np.concatenate(list(audit.ledger.caption_blocks()))
    scores = images @ captions.T
    together = set(map(tuple, audit.pairs.tolist()))

    def rank(own, rivals):
        return 1 + sum(score > own + 1e-6 or (abs(score - own) <= 1e-6 and first) for score, first in rivals)

    of_caption, of_image = [], []
    for i, c in audit.pairs.tolist():
        rivals = [(scores[i, d], d < c) for d in range(len(captions)) if (i, d) not in together]
        of_caption.append(rank(scores[i, c], rivals))
        rivals = [(scores[j, c], j < i) for j in range(len(images)) if (j, c) not in together]
        of_image.append(rank(scores[i, c], rivals))
    return of_caption, of_image


def best(queries, ranks):
    return [
        min(rank for query, rank in zip(queries, ranks, strict=True) if query == one) for one in set(queries)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_summary_equal_naive_ones(seed):
    noise = np.random.default_rng(seed)
    colours = list(COLOURS)
    rows = [
        (
            f"{noise.choice(colours)}.png",
            f"{noise.choice(colours)} {noise.choice(colours)} {noise.integers(3)}",
        )
        for _ in range(60)
    ]
    audit = audited(rows)
    of_caption, of_image = naive(audit, rows)
    assert audit.rivals.rank_of_caption.tolist() == of_caption
    assert audit.rivals.rank_of_image.tolist() == of_image
    summary = audit.summary()
    for found, ranks in (
        (summary.image_to_text, best([image for image, _ in rows], of_caption)),
        (summary.text_to_image, best([caption for _, caption in rows], of_image)),
    ):
        assert found.queries == len(ranks)
        assert found.recall == pytest.approx({k: sum(r <= k for r in ranks) / len(ranks) for k in (1, 5, 10)})
        assert found.mean_reciprocal_rank == pytest.approx(sum(1 / r for r in ranks) / len(ranks))
        assert found.median_rank == np.median(ranks)
    assert (summary.rows, summary.scored, summary.failed) == (60, 60, 0)
    assert summary.flags == {flag: sum(flag in some for some in audit.flags) for flag in FLAGS}


def test_failed_rows_have_an_error_and_nothing_else():
    audit = audited([("gone.png", "gone"), *RIGHT])
    first, *others = cells(audit)
    assert first.pop("error").startswith("no such file")
    assert set(first.values()) == {""}
    assert [row["rank_of_caption"] for row in others] == ["1"] * 8
    assert audit.summary().failed == 1
    assert audit.numbers.tolist() == list(range(1, 9))


def test_rows_that_were_not_reached_say_so():
    table, encoder, ledger = table_of(RIGHT * 20), PlainEncoder(), Ledger()
    chunks = score_table(table, Shelf().locate, encoder, ledger, Footprint(), Plan(Limits()))
    done = next(chunks)
    chunks.close()
    audit = judge(table, ledger, encoder.checkpoint, BACKGROUND, Footprint())
    found = cells(audit)
    assert len(found) == 160
    assert {row["error"] for row in found[:done]} == {""}
    assert {row["error"] for row in found[done:]} == {"not scored: stopped before this row"}


def test_an_audit_without_scores_is_empty():
    for rows in ([], [("gone.png", "gone")]):
        audit = audited(rows)
        summary = audit.summary()
        assert (summary.scored, summary.failed) == (0, len(rows))
        assert set(summary.image_to_text.recall.values()) == {0.0}


def test_one_pair_alone_ranks_first_without_a_rival():
    (row,) = cells(audited(RIGHT[:1]))
    assert (row["rank_of_caption"], row["rank_of_image"], row["best_rival_caption"]) == ("1", "1", "")


def test_a_caption_over_the_limit_is_truncated():
    audit = audited([("red.png", "red " * 21), ("blue.png", "blue " * 20), ("blue.png", "red " * 21)])
    assert [row["truncated"] for row in cells(audit)] == ["yes", "no", "yes"]
    assert audit.summary().truncated == 2


@pytest.mark.parametrize(
    ("header", "prefix"),
    [
        ("image,caption", ""),
        ("image,caption,Similarity ", "clipdemo_"),
        ("image,caption,error", "clipdemo_"),
        ("image,caption,similarity,clipdemo_similarity", "clipdemo_clipdemo_"),
    ],
)
def test_result_columns_never_share_a_name_with_the_table(header, prefix):
    table = open_table("t.csv", lambda: io.BytesIO(f"{header}\n".encode()))
    assert result_columns(table) == tuple(prefix + name for name in RESULT_COLUMNS)


def test_cells_are_returned_unchanged():
    rows = [("red.png", "  a red\nsquare "), ("blue.png", "=1+1")]
    audit = audited(rows)
    assert [tuple(row[:2]) for row in audit.rows()] == rows
    out = io.StringIO()
    csv.writer(out).writerows(audit.rows())
    assert len(list(csv.reader(io.StringIO(out.getvalue())))) == 2
