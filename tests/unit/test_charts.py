import numpy as np

from clipdemo import charts
from clipdemo.types import Hit

HITS = [Hit(1, 1, 0.3, 99.0), Hit(2, 0, 0.2, 50.0)]


def test_bars_stand_best_first_with_their_shares():
    figure = charts.caption_bars(HITS, ["a dog", "a cat"], np.array([0.25, 0.75]), "share, %")
    bar = figure.data[0]
    assert list(bar.x) == [75, 25]
    assert list(figure.layout.yaxis.ticktext) == ["a cat", "a dog"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "share, %"


def test_without_shares_the_bars_are_percentiles():
    figure = charts.caption_bars(HITS, ["a dog", "a cat"], None, "percentile")
    assert list(figure.data[0].x) == [99, 50]


def test_captions_cannot_carry_markup_into_a_chart():
    figure = charts.caption_bars(
        HITS[1:], ["<b onclick=x>bold</b> & <a href='javascript:x'>l</a>"], None, "percentile"
    )
    shown = str(figure.layout.yaxis.ticktext) + str(figure.data[0].customdata)
    assert "<b o" not in shown
    assert "<a" not in shown
    assert "&lt;b" in shown


def test_the_histogram_holds_the_whole_background_and_marks_the_pair():
    background = np.linspace(-0.1, 0.3, 500, dtype=np.float32)
    figure = charts.background_histogram(0.9, background)
    assert sum(figure.data[0].y) == 500
    assert figure.layout.shapes[0].x0 == 0.9
