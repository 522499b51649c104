"""The Matrix page in a real browser: looking, hovering, clicking, taking away."""

import io
import re
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pytest
from browsing import rerun, settled, write_captions
from PIL import Image
from playwright.sync_api import expect

from clipdemo import load_encoder, samples, score_matrix

pytestmark = pytest.mark.browser
CHART = ".st-key-heatmap .js-plotly-plot"
CAPTIONS, IMAGES = len(samples.SAMPLE_CAPTIONS), len(samples.samples())


@pytest.fixture(scope="module")
def coffee():
    """What the engine itself says of the second sample picture under the second sample caption."""
    scores = score_matrix(load_encoder("embedded"), samples.sample_items()[1:2], samples.SAMPLE_CAPTIONS[1:2])
    return float(scores.cosine[0, 0])


def visit(app, page, query=""):
    page.goto(f"{app}/matrix{query}")
    page.locator(f"{CHART} .nsewdrag").first.wait_for()
    settled(page)


def spot(page, row, column, rows=IMAGES, columns=CAPTIONS):
    """The middle of a cell, on screen; Plotly is asked for the place of the cells alone."""
    page.locator(CHART).scroll_into_view_if_needed()
    box = page.locator(f"{CHART} .nsewdrag").first.bounding_box()
    return (
        box["x"] + (column + 0.5) * box["width"] / columns,
        box["y"] + (row + 0.5) * box["height"] / rows,
    )


def choose(page, label, option):
    with rerun(page):
        page.get_by_role("combobox", name=label).first.click()
        page.get_by_role("option", name=option, exact=True).click()


def hovered(page, *place):
    label = page.locator(f"{CHART} .hoverlayer .hovertext")
    page.mouse.move(0, 0)
    label.wait_for(state="detached")  # of the cell before
    page.mouse.move(*spot(page, *place))
    label.wait_for()
    return label.text_content()


def download(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return waiting.value.path().read_bytes()


def test_a_click_on_a_cell_opens_its_score_card_once(app, page, coffee):
    visit(app, page)
    page.mouse.click(*spot(page, 1, 1))
    card = page.get_by_role("dialog")
    for words in ("coffee.jpg", "a cup of coffee on a wooden table", f"{coffee:.3f}"):
        expect(card).to_contain_text(words)
    expect(card).to_contain_text(re.compile("Image rank *1 of 14"))
    expect(card).to_contain_text(re.compile("Caption rank *1 of 3"))
    page.keyboard.press("Escape")
    card.wait_for(state="detached")
    choose(page, "Show", "Percentile")  # the selection may outlive this run; the card must not come back
    page.wait_for_timeout(500)
    settled(page)
    assert page.get_by_role("dialog").count() == 0
    page.mouse.click(*spot(page, 0, 0))
    expect(card).to_contain_text("Caption rank")
    expect(card).to_contain_text("cat.jpg")


def test_the_same_cell_opens_again(app, page):
    visit(app, page)
    for _ in range(2):
        page.mouse.click(*spot(page, 0, 0))
        page.get_by_role("dialog").get_by_text("Caption rank").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        settled(page)


def test_views_and_orders_change_what_is_shown_and_travel_in_the_link(app, page, coffee):
    visit(app, page)
    assert f"cosine {coffee:.3f}" in hovered(page, 1, 1)
    choose(page, "Show", "Rank of the image")
    choose(page, "Order", "By best match")
    expect(page.locator(CHART)).to_contain_text("rank of the image, under Embedded model")
    first_coffee = next(row for row in range(IMAGES) if "coffee.jpg" in hovered(page, row, 1))
    assert "rank of the image: 1" in hovered(page, first_coffee, 1)
    link = page.url
    assert parse_qs(urlparse(link).query)["show"] == ["Rank of the image"]
    other = page.context.new_page()
    other.goto(link)
    other.locator(CHART).wait_for()
    settled(other)
    expect(other.get_by_role("combobox", name="Show")).to_have_value("Rank of the image")
    expect(other.get_by_role("combobox", name="Order")).to_have_value("By best match")


def test_two_images_have_a_card_of_their_own(app, page):
    visit(app, page, "?pairs=Images+×+images")
    page.mouse.click(*spot(page, 3, 3, IMAGES, IMAGES))  # with itself: nothing to say
    page.wait_for_timeout(700)
    settled(page)
    assert page.get_by_role("dialog").count() == 0
    page.mouse.click(*spot(page, 0, 1, IMAGES, IMAGES))
    card = page.get_by_role("dialog")
    expect(card).to_contain_text("The query image: cat.jpg")
    expect(card).to_contain_text("coffee.jpg")


def test_a_card_leads_on_to_the_rank_page(app, page):
    visit(app, page)
    page.mouse.click(*spot(page, 1, 1))
    page.get_by_role("dialog").get_by_role("button", name="Its captions").click()
    page.get_by_text("Shares add up to 100 %").wait_for()
    expect(page.get_by_role("combobox", name="Image")).to_have_value(re.compile(r"coffee\.jpg"))


def test_the_table_opens_a_card_by_keyboard(app, page):
    visit(app, page)
    page.get_by_text("As a table").click()
    grid = page.locator("[data-testid=stDataFrame]")
    grid.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = grid.bounding_box()
    page.mouse.click(box["x"] + 300, box["y"] + 55)
    page.wait_for_timeout(300)
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Score card of 2. coffee.jpg with 1. a cat").wait_for()
    assert page.get_by_role("dialog").count() == 0  # moving about opens nothing
    page.get_by_role("button", name="Score card of 2. coffee.jpg").click()
    expect(page.get_by_role("dialog")).to_contain_text("Caption rank")
    expect(page.get_by_role("dialog")).to_contain_text("coffee.jpg")


def test_downloads_open_and_hold_what_is_on_the_page(app, page, tmp_path, coffee):
    visit(app, page, "?order=By+best+match")
    table = pd.read_csv(io.BytesIO(download(page, "Matrix (CSV)")), encoding="utf-8-sig", index_col=0)
    assert list(table.columns[:CAPTIONS]) == list(samples.SAMPLE_CAPTIONS)
    assert set(table["checkpoint"]) == {"embedded"}
    assert table.loc["coffee.jpg", samples.SAMPLE_CAPTIONS[1]] == pytest.approx(coffee, abs=1e-3)
    with Image.open(io.BytesIO(download(page, "Picture (PNG)"))) as drawn:
        assert drawn.format == "PNG"
        assert drawn.height > 14 * 44
    with np.load(io.BytesIO(download(page, "npz")), allow_pickle=False) as saved:
        assert saved["cosine"].shape == (IMAGES, CAPTIONS)
        assert saved["cosine"][1, 1] == pytest.approx(coffee, abs=1e-3)
    kept = tmp_path / "matrix.html"
    kept.write_bytes(download(page, "Interactive (HTML)"))
    alone = page.context.new_page()
    asked_for = []
    alone.on("request", lambda request: asked_for.append(request.url))
    alone.goto(kept.as_uri())
    alone.locator(".js-plotly-plot .nsewdrag").first.wait_for()
    assert "Embedded model" in alone.title()
    assert not [url for url in asked_for if url.startswith("http")]


def test_hostile_captions_are_shown_as_typed(app, page):
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    visit(app, page)
    typed = ["<b>bold</b> <img src=x onerror=alert(1)>", "$x^2$ costs $5", 'a "quoted" one & more']
    write_captions(page, *typed)
    page.locator(CHART).wait_for()
    for column, caption in enumerate(typed):
        assert caption in hovered(page, 0, column).replace("\u00a0", " ")
    assert page.locator(f"{CHART} img").count() == 0
    assert not dialogs


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}], indirect=True
)
def test_on_a_dark_phone_the_matrix_scrolls_and_not_the_page(app, page):
    visit(app, page, "?captions=" + "%0A".join(f"caption+{n}" for n in range(40)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    wide, seen = page.evaluate(
        "[document.querySelector('.st-key-heatmap').scrollWidth, "
        "document.querySelector('.st-key-heatmap').clientWidth]"
    )
    assert seen < wide
    ink = page.evaluate(f"getComputedStyle(document.querySelector('{CHART} .ytick text')).fill")
    assert min(int(part) for part in ink[4:-1].split(",")[:3]) > 120


def test_a_hostile_link_shows_the_plain_page(app, page):
    visit(app, page, "?pairs=<script>&show=../../etc&order=x" + "y" * 500)
    expect(page.get_by_role("combobox", name="Show")).to_have_value("Cosine")
    assert page.get_by_text("encountered an error").count() == 0
