"""What a visitor does, in a real browser against the real server."""

import io
import re
import zipfile
from urllib.parse import parse_qs, urlencode, urlparse

import numpy as np
import pandas as pd
import pytest
from browsing import TILE, ranked, rerun, settled, tile_names, write_captions
from PIL import Image
from playwright.sync_api import expect

from clipdemo import samples

pytestmark = pytest.mark.browser


def picture(colour, size=(640, 480), form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


def upload(page, *files):
    page.locator("[data-testid=stFileUploaderDropzoneInput]").first.set_input_files(
        [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files]
    )
    page.get_by_text(" of your own").wait_for()
    settled(page)


def download(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return waiting.value.path().read_bytes()


def choose(page, label, option):
    box = page.get_by_role("combobox", name=label).first
    box.scroll_into_view_if_needed()  # an open list closes when the page scrolls
    page.wait_for_timeout(200)
    with rerun(page):
        box.click()
        page.get_by_role("option", name=option).click()


def test_the_first_visit_is_ranked_at_once(app, page):
    ranked(page, app)
    for caption in samples.SAMPLE_CAPTIONS:
        assert page.get_by_role("heading", name=caption).is_visible()
    names = tile_names(page)
    assert page.locator(TILE).evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert [names[0], names[5], names[10]] == ["cat.jpg", "coffee.jpg", "rocket.jpg"]
    page.get_by_text("is not available").wait_for()  # the hub is down, and the page says so
    page.get_by_role("button", name="Try again").wait_for()


def test_own_images_and_captions_are_ranked_and_bad_files_named(app, page):
    page.goto(app)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("inner/flower.jpg", (samples.SAMPLES / "flower.jpg").read_bytes() + b"\0")
        bundle.writestr("../outside.png", picture("red"))
    coffee = (samples.SAMPLES / "coffee.jpg").read_bytes() + b"\0"  # other bytes, same picture
    page.locator(TILE).first.wait_for()
    upload(
        page,
        ("my *espresso* <b>.jpg", coffee),
        ("again.jpg", coffee),
        ("photos.zip", archive.getvalue()),
        ("notes.txt", b"these are words"),
        ("empty.png", b""),
    )
    page.get_by_text("could not be used").wait_for()
    reasons = page.locator("[data-testid=stSidebar] [data-testid=stExpander]")
    for words in ("again.jpg — duplicate", "notes.txt — not an image", "empty.png", "outside.png"):
        expect(reasons).to_contain_text(words)
    choose(page, "Sample gallery", "none")
    write_captions(page, "a cup of coffee", "an orange flower")
    names = tile_names(page)
    assert len(names) == 4  # two images under each of two captions
    assert names[0] == "my *espresso* <b>.jpg"
    assert names[2].endswith("inner/flower.jpg")
    shown = page.locator("[data-testid=stMain]").inner_text().replace("\u2060", "")
    assert "my *espresso* <b>.jpg" in shown  # as typed, not as markup
    page.get_by_role("button", name="Clear my images").click()
    page.get_by_text("No images yet").wait_for()


def test_a_private_url_is_blocked_and_a_broken_line_explained(app, page):
    page.goto(app)
    page.get_by_text("URLs", exact=True).click()
    page.get_by_role("textbox", name="One image address a line").fill(
        f"{app}/logo.png\nhttp://169.254.169.254/latest/meta-data\nexample.org/cat.jpg"
    )
    page.get_by_role("button", name="Fetch").click()
    page.get_by_text("blocked").nth(1).wait_for()
    settled(page)
    verdicts = page.locator("[data-testid=stSidebar]").inner_text()
    assert verdicts.count("blocked") >= 2
    assert "not a URL" in verdicts


def test_captions_for_an_image_are_bars_with_their_shares(app, page):
    page.goto(app)
    page.get_by_text("Captions for an image").click()
    page.locator(".js-plotly-plot").wait_for()
    settled(page)
    bars = page.locator("[data-testid=stPlotlyChart]")
    expect(bars).to_contain_text("a cat looking at the camera")
    page.get_by_text("Shares add up to 100 %").wait_for()
    write_captions(page, "a cat")
    page.get_by_text("a share requires at least two").first.wait_for()


def test_a_score_card_says_what_the_number_means(app, page):
    ranked(page, app)
    page.get_by_role("button", name="Score card").first.click()
    card = page.get_by_role("dialog")
    for words in (
        "Cosine",
        "Percentile",
        "Logit",
        "Share",
        re.compile("Image rank *1 of 14"),
        re.compile("Caption rank *1 of 3"),
        "Embedded model",
        "number 1 of 14",
    ):
        expect(card).to_contain_text(words)
    card.locator(".js-plotly-plot").wait_for()
    card.get_by_role("button", name="Its captions").click()
    card.wait_for(state="detached")
    page.get_by_text("Shares add up to 100 %").wait_for()


def test_downloads_hold_what_is_on_the_page(app, page):
    ranked(page, app)
    table = pd.read_csv(io.BytesIO(download(page, "Ranking (CSV)")), encoding="utf-8-sig")
    assert len(table) == 3 * len(samples.samples())
    assert table.loc[0, ["query", "rank", "name"]].tolist() == [samples.SAMPLE_CAPTIONS[0], 1, "cat.jpg"]
    with Image.open(io.BytesIO(download(page, "Grid (PNG)"))) as grid:
        assert grid.format == "PNG"
        assert grid.width > 1000
    with np.load(io.BytesIO(download(page, "Embeddings (.npz)")), allow_pickle=False) as saved:
        assert saved["images"].shape == (len(samples.samples()), 386)
        assert str(saved["checkpoint"]) == "embedded"


def test_a_shared_link_brings_back_page_captions_templates_and_samples(app, page):
    ranked(page, app)
    write_captions(page, "a rocket", "ein Hund & 犬 ++ x")
    choose(page, "Sample gallery", "space")
    choose(page, "Prompt template", "a photo of …")
    page.get_by_text("Images like an image").click()
    page.get_by_role("heading", name="Most like").wait_for()
    settled(page)
    link = page.url
    assert parse_qs(urlparse(link).query)["checkpoint"] == ["embedded"]
    other = page.context.browser.new_context().new_page()
    ranked(other, link)
    box = other.get_by_role("textbox", name="One caption a line")
    expect(box).to_have_value("a rocket\nein Hund & 犬 ++ x", timeout=30_000)
    assert sorted(tile_names(other)) == ["deep-field.jpg", "rocket.jpg"]  # and astronaut.jpg is the query
    expect(other.get_by_role("combobox", name="Prompt template")).to_have_value("a photo of …")
    other.context.close()


@pytest.mark.parametrize("checkpoint", ["evil/model", "../../evil"])
def test_a_hostile_link_changes_nothing(app, page, checkpoint):
    query = {
        "checkpoint": checkpoint,
        "samples": "../../etc",
        "direction": "<script>",
        "template": "x" * 5000,
    }
    ranked(page, f"{app}/?{urlencode(query)}")
    assert tile_names(page)[0] == "cat.jpg"
    assert "evil" not in page.url
    assert page.get_by_text("The link asked for").is_visible()


@pytest.mark.parametrize("page", [{"viewport": {"width": 400, "height": 800}}], indirect=True)
def test_a_phone_shows_the_grid_without_scrolling_sideways(app, page):
    ranked(page, app)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    box = page.locator(TILE).first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_the_dark_theme_is_dark_and_its_text_light(app, page):
    ranked(page, app)
    ground, ink = (
        page.evaluate(f"getComputedStyle(document.querySelector('[data-testid=stApp]')).{name}")
        for name in ("backgroundColor", "color")
    )
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 180


def test_the_query_image_can_be_an_own_one(app, page):
    ranked(page, app)
    upload(page, ("twin.jpg", (samples.SAMPLES / "cat.jpg").read_bytes() + b"\0"))
    page.get_by_text("Images like an image").click()
    page.get_by_role("heading", name="Most like").wait_for()
    settled(page)
    choose(page, "Image", "twin.jpg")
    assert tile_names(page)[0] == "cat.jpg"


def test_hundreds_of_images_can_be_paged_through_and_filtered(app, page):
    ranked(page, app)
    upload(page, *((f"{n}.png", picture((n, 255 - n, n // 2), (40, 40))) for n in range(0, 240, 10)))
    page.get_by_text("24 of your own").wait_for()
    write_captions(page, "a cat")
    first = tile_names(page)
    assert len(first) == 10
    assert first[0] == "cat.jpg"
    page.get_by_role("button", name=re.compile("^(Go to )?[Pp]age 2|^2$")).first.click()
    page.get_by_role("img", name=first[0]).wait_for(state="detached")
    settled(page)
    second = tile_names(page)
    assert second
    assert not set(first) & set(second)


def grid(page):
    """Names and scores of the first caption's tiles, best first."""
    scores = page.locator("[class*=st-key-grid-0] [data-testid=stCaptionContainer]").all_inner_texts()
    return tile_names(page), [text.split() for text in scores]


def test_own_templates_are_applied_and_travel_in_the_link(app, page):
    ranked(page, app)
    before = grid(page)
    choose(page, "Prompt template", "own templates")
    box = page.get_by_role("textbox", name="One template a line")
    box.fill("a blurry drawing of {}\na painting of {}")
    box.press("Control+Enter")
    page.wait_for_function("location.search.includes('own_templates')")
    settled(page)
    after = grid(page)
    assert after != before
    again = page.context.new_page()
    ranked(again, page.url)
    assert grid(again) == after


def test_hostile_file_names_read_as_typed(app, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{app}?samples=none&captions=a+red+square")
    names = [
        "<b>x<img src=y onerror=z>.png",
        "![](http://b.test/a.png).png",
        ":streamlit: :red[a].png",
        "**b** $x$.png",
    ]
    upload(page, *((name, picture((255, 40 * n, 0), (40, 40))) for n, name in enumerate(names)))
    page.locator(TILE).nth(len(names) - 1).wait_for()
    settled(page)
    assert set(tile_names(page)) == {name.replace("\u202e", "\ufffd") for name in names}
    shown = page.locator("[class*=st-key-grid-0]").inner_text().replace("\u2060", "")
    assert all(name[:27].replace("\u202e", "\ufffd") in shown for name in names)
    assert not [url for url in asked if not url.startswith((app, "data:", "blob:"))]


def test_about_names_every_photographer(app, page):
    page.goto(f"{app}/about")
    page.get_by_role("heading", name="Sample photographs").wait_for()
    page.get_by_text("A cosine is not a probability").wait_for()


def test_clicks_and_an_open_card_survive_work_in_the_background(app, page):
    ranked(page, app)
    page.locator("[data-testid=stFileUploaderDropzoneInput]").first.set_input_files(
        [
            {"name": f"{n}.png", "mimeType": "image/png", "buffer": picture((n, 99, 255 - n), (1600, 1200))}
            for n in range(60)
        ]
    )
    page.get_by_text("encoded so far").wait_for()
    for direction in ("Captions for an image", "Images like an image", "Images for a caption") * 2:
        page.get_by_text(direction).click()
        page.wait_for_timeout(150)
    page.get_by_role("heading", name="Most like").wait_for(state="detached")
    page.get_by_role("heading", name=samples.SAMPLE_CAPTIONS[0]).wait_for()
    page.get_by_role("button", name="Score card").first.click()
    page.get_by_role("dialog").get_by_text("Caption rank").wait_for()
    page.get_by_text("60 of your own").wait_for()
    settled(page)
    assert page.get_by_role("dialog").is_visible()
    assert page.get_by_text("encountered an error").count() == 0
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    settled(page)
    assert page.get_by_role("dialog").count() == 0
