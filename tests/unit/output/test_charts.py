import numpy as np

from clipdemo.output import charts
from clipdemo.types import Hit

HITS = [Hit(1, 1, 0.3, 99.0), Hit(2, 0, 0.2, 50.0)]


def test_bars_are_sorted_best_first_with_their_shares():
    figure = charts.caption_bars(HITS, ["a dog", "a cat"], np.array([0.25, 0.75]), "share, %")
    bar = figure.data[0]
    assert list(bar.x) == [75, 25]
    assert list(figure.layout.yaxis.ticktext) == ["a cat", "a dog"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "share, %"


def test_without_shares_the_bars_are_percentiles():
    figure = charts.caption_bars(HITS, ["a dog", "a cat"], None, "percentile")
    assert list(figure.data[0].x) == [99, 50]


def test_markup_in_captions_is_escaped_in_the_chart():
    figure = charts.caption_bars(
        HITS[1:], ["<b onclick=x>bold</b> & <a href='javascript:x'>l</a>"], None, "percentile"
    )
    shown = str(figure.layout.yaxis.ticktext) + str(figure.data[0].customdata)
    assert "<b o" not in shown
    assert "<a" not in shown
    assert "&lt;b" in shown


def test_the_histogram_shows_the_whole_background_and_marks_the_pair():
    background = np.linspace(-0.1, 0.3, 500, dtype=np.float32)
    figure = charts.background_histogram(0.9, background)
    assert sum(figure.data[0].y) == 500
    assert figure.layout.shapes[0].x0 == 0.9


def test_each_image_is_a_line_through_its_ranks_whose_style_shows_agreement():
    ranks = np.array([[1, 2, 7], [2, 9, 1]])
    figure = charts.bump_chart(ranks, ["one", "two"], ["a.png", "b.png", "c.png"], 3)
    lines = {tuple(line.y): line for line in figure.data}
    assert set(lines) == {(1, 2), (2, 9), (7, 1)}
    assert lines[1, 2].line.dash == "solid"
    assert lines[1, 2].marker.symbol != lines[2, 9].marker.symbol
    assert lines[2, 9].line.dash == "dot"
    assert list(figure.layout.xaxis.ticktext) == ["one", "two"]
    bottom, top = figure.layout.yaxis.range
    assert bottom > top  # the best rank is on top
    assert [note.text for note in figure.layout.annotations] == ["c.png", "a.png", "b.png"]


def test_the_first_of_two_hundred_ranks_stay_apart():
    ranks = np.array([[1, 2, 3, 198], [150, 151, 2, 1]])
    figure = charts.bump_chart(ranks, ["one", "two"], list("abcd"), 3)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.height < 700
    assert [note.text for note in figure.layout.annotations] == ["d", "c", "a"]  # 151 would overlap 150
    assert "b" in str(figure.data)


def test_markup_in_names_is_escaped_in_the_bump_chart():
    figure = charts.bump_chart(np.array([[1], [2]]), ["<b>x", "y"], ["<img src=x onerror=y>"], 1)
    shown = str(figure.layout.annotations) + str(figure.layout.xaxis.ticktext)
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "<img" not in figure.data[0].hovertemplate
