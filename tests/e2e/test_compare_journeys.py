"""The Compare page in a real browser, with a second checkpoint from a folder."""

import csv
import io

import pytest
from browsing import rerun, running_app, settled
from inert_pages import Page as Read
from inert_pages import is_inert
from playwright.sync_api import expect

from clipdemo import samples

pytestmark = pytest.mark.browser
CHART = ".st-key-compare-bump .js-plotly-plot"
LOADED = 180_000  # two checkpoints and their libraries, on a busy machine


@pytest.fixture(scope="module")
def app(browser, colour_clip, tmp_path_factory):
    with running_app(
        tmp_path_factory.mktemp("compare") / "log", CLIPDEMO_CHECKPOINT=str(colour_clip)
    ) as address:
        yield address


def visit(app, page, query=""):
    page.goto(f"{app}/compare{query}")
    page.locator(CHART).wait_for(timeout=LOADED)
    settled(page)


def choose(page, label, option):
    box = page.get_by_role("combobox", name=label).first
    box.scroll_into_view_if_needed()
    page.wait_for_timeout(300)  # scrolling closes an open list
    with rerun(page):
        box.click()
        page.get_by_role("option", name=option, exact=True).click()


def columns(page):
    """The alternative texts of each checkpoint's tiles, best first."""
    return [
        [image.get_attribute("alt") for image in page.locator(f"[class*=st-key-grid-compare-{n}] img").all()]
        for n in (0, 1)
    ]


def download(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return waiting.value.path().read_bytes()


def test_two_checkpoints_stand_side_by_side_with_their_disagreements(app, page):
    visit(app, page)
    one, two = columns(page)
    assert len(one) == len(two) == 5
    assert one[0].startswith("1st under colour-clip")
    assert two[0] == "1st under Embedded model: cat.jpg"
    alt = page.locator("[class*=st-key-grid-compare-disputes] img").first.get_attribute("alt")
    assert "under colour-clip" in alt
    assert "under Embedded model" in alt
    assert page.locator(f"{CHART} .scatterlayer .trace").count() >= 5
    page.get_by_role("button", name="Measure again").wait_for(timeout=LOADED)


def test_another_caption_ranks_anew_and_a_switched_checkpoint_leaves_the_page(app, page):
    visit(app, page)
    choose(page, "Caption", samples.SAMPLE_CAPTIONS[1])
    page.get_by_role("heading", name=samples.SAMPLE_CAPTIONS[1]).wait_for()
    assert columns(page)[1][0] == "1st under Embedded model: coffee.jpg"
    choose(page, "Images a model", "3")
    assert [len(column) for column in columns(page)] == [3, 3]
    page.get_by_role("button", name="Remove").first.click()
    page.get_by_text("Choose two models").wait_for()
    expect(page.locator(CHART)).to_have_count(0)


def test_switching_in_the_sidebar_changes_the_other_pages_and_not_what_is_compared(app, page):
    visit(app, page)
    before = columns(page)
    choose(page, "Checkpoint", "Embedded model")
    page.wait_for_function("location.search.includes('checkpoint=embedded')")
    page.locator(CHART).wait_for()
    settled(page)
    assert columns(page) == before
    page.get_by_role("link", name="Rank").click()
    page.get_by_text("128 tokens").first.wait_for()
    page.get_by_role("link", name="Compare").click()
    page.locator(CHART).wait_for()
    settled(page)
    assert columns(page) == before


def test_the_link_brings_another_visitor_to_the_same_comparison(app, page, colour_clip):
    visit(app, page, f"?compare=embedded&compare={colour_clip.name}&checkpoint=embedded")
    assert columns(page)[0][0] == "1st under Embedded model: cat.jpg"
    assert f"compare=embedded&compare={colour_clip.name}" in page.url


def test_the_report_opens_offline_and_the_tables_are_tables(app, page, tmp_path):
    visit(app, page)
    page.get_by_role("button", name="Measure again").wait_for(timeout=LOADED)
    kept = tmp_path / "comparison.html"
    kept.write_bytes(download(page, "Report (HTML)"))
    assert is_inert(Read(kept.read_text("utf-8")))
    rows = list(csv.DictReader(io.StringIO(download(page, "Ranks (CSV)").decode("utf-8-sig"))))
    assert len(rows) == len(samples.samples()) * len(samples.SAMPLE_CAPTIONS)
    costs = list(csv.DictReader(io.StringIO(download(page, "Costs (CSV)").decode("utf-8-sig"))))
    assert {row["model"].split("-clip")[0] for row in costs} == {"colour", "Embedded model"}
    alone = page.context.new_page()
    asked_for = []
    alone.on("request", lambda request: asked_for.append(request.url))
    alone.goto(kept.as_uri())
    assert "rankings compared" in alone.title()
    assert not [url for url in asked_for if url.startswith("http")]


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}], indirect=True
)
def test_a_dark_phone_shows_it_all_without_scrolling_sideways(app, page):
    visit(app, page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ink = page.evaluate(f"getComputedStyle(document.querySelector('{CHART} .annotation text')).fill")
    assert min(int(part) for part in ink[4:-1].split(",")[:3]) > 120
