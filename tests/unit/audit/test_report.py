"""The report opens offline and runs no script, whatever a table contains; the figures are valid pictures."""

import io

import numpy as np
import pytest
from inert_pages import Page, has_strict_policy, is_inert
from PIL import Image
from plain_encoder import BACKGROUND, SQUARES, PlainEncoder, Shelf, scored, table_of

from clipdemo.audit import report as audit_report
from clipdemo.audit.footprint import Footprint, Stage
from clipdemo.audit.judge import judge
from clipdemo.audit.score import Plan
from clipdemo.limits import Limits

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=http://evil.test/x.png onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</figcaption></figure><iframe src=//evil.test>",
    "<style>@import url(http://evil.test/x.css)</style>",
    "&lt;b&gt; stays text",
    "javascript:alert(1)",
]


def audited(rows, *, files=SQUARES, header=("image", "caption"), name="plain", thumbnails=True):
    table, encoder = table_of(rows, header), PlainEncoder(name)
    plan = Plan(Limits(), thumbnails=thumbnails)
    ledger = scored(table, encoder, locate=Shelf(files).locate, plan=plan)
    return judge(table, ledger, encoder.checkpoint, BACKGROUND, Footprint())


def html_of(audit, **options):
    usage = audit_report.Usage([Stage("fetch <b>", 1.5, 3)], 2.0, "cpu", 5_000_000, None)
    return audit_report.audit_html(audit, audit.summary(), usage, **options)


def test_hostile_text_stays_text_everywhere():
    files = {**SQUARES, **{f"{number}{text}": SQUARES["red.png"] for number, text in enumerate(HOSTILE)}}
    rows = [(f"{number}{text}", text, text) for number, text in enumerate(HOSTILE)]
    rows += [("red.png", text + " of red", "") for text in HOSTILE]
    audit = audited(rows, files=files, header=("image", "caption", HOSTILE[0]), name=HOSTILE[1])
    page = Page(html_of(audit))
    assert is_inert(page)
    assert has_strict_policy(page)
    for text in HOSTILE:
        assert text in page.text


def test_the_check_itself_detects_active_content():
    for bad in ("<script></script>", "<img src=http://a.test>", "<b onclick=x>", "<a href=javascript:x>"):
        assert not is_inert(Page("<style></style>" + bad))


def test_a_picture_has_the_name_of_its_image_as_alternative_text():
    page = Page(html_of(audited([("red.png", "a red square"), ("blue.png", "a blue square")])))
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert sorted(alternatives[:2]) == ["blue.png", "red.png"]
    assert alternatives[2:] == ["Cosines of images and captions as a matrix"]


def test_the_report_names_rows_scores_flags_and_cost():
    rows = [("red.png", "a green square"), ("green.png", "a red square"), ("blue.png", "a blue square")]
    page = Page(html_of(audited(rows)))
    assert "under plain" in page.text
    assert "row 1: red.png" in page.text
    assert "likely swapped" in page.text
    assert "best rival: a red square" in page.text
    assert "hit when any of its right answers" in page.text
    assert "fetch <b>" in page.text
    assert "peak memory 5 MB" in page.text
    assert page.tags.count("figure") == 3
    assert page.tags.count("img") == 4  # three photographs and the matrix


def test_only_the_worst_pairs_are_shown_and_the_report_says_so():
    rows = [("red.png", f"a red square {number}") for number in range(5)] + [("red.png", "a green square")]
    audit = audited(rows)
    page = Page(html_of(audit, limit=2))
    assert page.tags.count("figure") == 2
    assert "2 of 6, lowest percentile first" in page.text
    assert "a green square" in page.text


def test_a_table_with_nothing_scored_still_has_a_report_and_pictures(tmp_path):
    for rows in ([], [("gone.png", "gone")]):
        audit = audited(rows)
        page = Page(html_of(audit))
        assert is_inert(page)
        assert "img" not in page.tags
        for file in audit_report.write_figures(audit, tmp_path / "figures"):
            with Image.open(file) as picture:
                picture.load()


def test_figures_are_pngs_in_a_new_folder(tmp_path):
    rows = [(f"{colour}.png", f"😀 \u202eقطة {colour}") for colour in ("red", "green", "blue")]
    folder = tmp_path / "new" / "figures"
    files = audit_report.write_figures(audited(rows), folder)
    assert files == [str(folder / "image_captions.png"), str(folder / "similarity_matrix.png")]
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert len(set(picture.convert("RGB").resize((50, 50)).get_flattened_data())) > 3
    assert audit_report.write_figures(audited(rows), None) == []


def test_the_contact_sheet_shows_each_image():
    data = audit_report.image_captions_png(
        audited([("red.png", "a red square"), ("blue.png", "a blue square")])
    )
    with Image.open(io.BytesIO(data)) as sheet:
        pixels = np.asarray(sheet.convert("RGB"), dtype=int).reshape(-1, 3)
    for colour in ((220, 30, 30), (40, 60, 220)):
        assert (np.abs(pixels - colour).max(axis=1) < 12).sum() > 1000


@pytest.mark.parametrize("limit", [2, 200])
def test_the_matrix_has_each_image_and_caption_once(limit):
    rows = [("red.png", "red"), ("red.png", "rosy red"), ("blue.png", "blue"), ("blue.png", "red")]
    audit = audited(rows)
    values, images, captions = audit_report.matrix(audit, limit)
    assert values.shape == (len(images), len(captions)) == ((1, 2) if limit == 2 else (2, 3))
    assert values[0, 0] == pytest.approx(audit.cosines[0])


def test_pictures_without_thumbnails_are_drawn_without_them(tmp_path):
    audit = audited([("red.png", "red")], thumbnails=False)
    assert len(audit_report.write_figures(audit, tmp_path)) == 2
    assert "img" in Page(html_of(audit)).tags


def test_the_header_keeps_duplicates():
    audit = audited([], header=("image", "caption", "note", "note"))
    assert audit_report.header(audit.table)[:5] == ["image", "caption", "note", "note", "similarity"]
