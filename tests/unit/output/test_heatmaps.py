import json
import re

import numpy as np
import pytest
from inert_pages import Page, hash_source

from clipdemo.output import heatmaps
from clipdemo.output.heatmaps import Axis
from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import Sheet

STRIP = "data:image/jpeg;base64,AAAA"
VALUES = np.array([[0.1, 0.3, 0.2], [0.4, 0.25, 0.0]], dtype=np.float32)
HOSTILE = [
    "<b onclick=x>bold</b>",
    "$x^2$ costs $5",
    'a "quoted" & <a href="javascript:x">link</a>',
    "</script><script>alert(1)</script>",
]


def draw(values=VALUES, rows=("a.jpg", "b.jpg"), columns=("a cat", "a dog", "a cow"), **more):
    sheet = Sheet(values, "cosine", float(np.nanmin(values)), float(np.nanmax(values)), 3)
    more = {"title": "under tiny", "extra": [values, 100 * values]} | more
    return heatmaps.heatmap(sheet, Axis(rows, STRIP), Axis(columns), **more)


def test_a_cell_has_its_colour_number_and_position():
    figure = draw()
    cells, targets, _ = figure.data
    assert targets is figure.data[heatmaps.TARGETS]
    np.testing.assert_allclose(cells.z, VALUES / 0.4, rtol=1e-6)
    assert list(cells.text[1]) == ["0.400", "0.250", "0.000"]
    assert list(zip(targets.x, targets.y, strict=True)) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    np.testing.assert_allclose(targets.customdata[3], [0.4, 0.4, 40])


def test_the_first_row_is_on_top_next_to_its_thumbnail():
    layout = draw().layout
    assert list(layout.yaxis.range) == [1.5, -0.5]
    (strip,) = layout.images  # captions have none
    assert (strip.y, strip.sizey, strip.yanchor) == (-0.5, 2, "top")


def test_the_colour_bar_shows_values_and_checkpoint():
    figure = draw()
    assert list(figure.data[0].colorbar.ticktext) == ["0.000", "0.100", "0.200", "0.300", "0.400"]
    assert "cosine, under tiny" in figure.layout.annotations[0].text


def test_rank_one_is_at_the_bright_end():
    sheet = Sheet(np.array([[1, 3, 2]], np.float32), "rank of the caption", 3, 1, 0)
    figure = heatmaps.heatmap(
        sheet, Axis(["a"]), Axis(["x", "y", "z"]), title="under tiny", extra=[VALUES[:1]]
    )
    assert list(figure.data[0].colorbar.ticktext) == ["3", "2", "1"]
    assert figure.data[0].z.tolist() == [[1, 0, 0.5]]


def test_colours_rise_in_lightness():
    light = [
        0.2126 * int(c[1:3], 16) + 0.7152 * int(c[3:5], 16) + 0.0722 * int(c[5:], 16)
        for c in matrices.COLOURS
    ]
    assert light == sorted(light)


def test_many_cells_are_drawn_without_numbers_and_markers():
    values = np.random.default_rng(0).random((200, 50)).astype(np.float32)
    figure = draw(values, [f"{n}.jpg" for n in range(200)], [f"caption {n}" for n in range(50)])
    assert figure.data[0].text is None
    assert figure.data[1].marker.maxdisplayed == 1
    assert len(figure.data[1].x) == 10_000
    assert len(figure.layout.images) == 1
    assert len(figure.to_json()) < 400_000  # one caption is sent once, not once a cell


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markup_in_names_is_escaped_in_the_heatmap(hostile):
    figure = draw(rows=(hostile, "b.jpg"), columns=(hostile, "a dog", "a cow"))
    shown = json.dumps([figure.layout.to_plotly_json(), figure.data[1].hovertemplate], default=str)
    for tag in ("<b o", "<a", "<script", "</script", "&quot;"):
        assert tag not in shown


def test_a_caption_is_short_on_the_axis_and_complete_on_hover():
    caption = "a very long caption that goes on " * 8 + "to its end"
    layout = draw(columns=[caption, "a dog", "a cow"]).layout
    assert len(layout.xaxis.ticktext[0]) < 40
    assert layout.xaxis2.ticktext[0].replace("<br>", " ") == caption
    assert layout.xaxis2.matches == "x"


def test_wide_letters_take_more_room():
    layout = draw(columns=["犬" * 30, "x" * 30, "كلب"]).layout
    assert layout.xaxis.ticktext[0].count("犬") <= 15
    assert layout.xaxis.ticktext[2] == "\u2068كلب\u2069"  # isolated: it runs right to left


def test_the_diagonal_cannot_be_clicked():
    values = np.array([[np.nan, 0.5], [0.5, np.nan]], np.float32)
    figure = draw(values, ["a", "b"], ["a", "b"], extra=[np.nan_to_num(values)])
    assert list(figure.data[1].x) == [-9, 1, 0, -9]
    assert list(figure.data[0].text[0]) == ["", "0.500"]
    diagonal = figure.data[2]
    assert list(zip(diagonal.x, diagonal.y, strict=True)) == [(0, 0), (1, 1)]


def test_thumbnails_on_both_sides_keep_cells_square_below_a_wide_colour_bar():
    rows, columns = Axis(["a", "b"], STRIP, 44), Axis(["a", "b"], STRIP, 44)
    figure = draw(VALUES[:, :2], ["a", "b"], ["a", "b"])
    width = heatmaps.heatmap_width(rows, columns)
    square = heatmaps.heatmap(
        Sheet(VALUES[:, :2], "cosine", 0, 1, 3), rows, columns, title="", extra=[VALUES[:, :2]]
    )
    assert width - square.layout.margin.l - square.layout.margin.r == 88
    assert len(square.layout.images) == 2
    assert len(figure.layout.images) == 1


def test_the_html_file_contains_everything_and_loads_nothing():
    page = heatmaps.heatmap_html(
        draw(rows=(HOSTILE[3], "b")), "Cosine <b> under tiny", f"templates: {HOSTILE[3]}"
    )
    assert page.startswith("<!doctype html>")
    assert "<title>Cosine &lt;b&gt; under tiny</title>" in page
    assert "alert(1)</script>" not in page
    assert "<script>alert" not in page
    assert '<script src="http' not in page.replace("'", '"')
    assert len(page) > 1_000_000  # plotly.js is inside


def test_the_policy_of_the_html_file_allows_only_the_scripts_of_the_figure():
    html = heatmaps.heatmap_html(draw(rows=(HOSTILE[3], "b")), HOSTILE[3], HOSTILE[3])
    policy = Page(html).policy
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == Page(html).tags.count("script")
    assert policy.pop("script-src") == [hash_source(script) for script in scripts]
    assert policy == {
        "default-src": ["'none'"],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:", "blob:"],
        "connect-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
