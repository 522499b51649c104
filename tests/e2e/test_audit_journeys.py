"""A dataset owner's audit, in a real browser against the real server."""

import csv
import io
import zipfile

import numpy as np
import pytest
from browsing import rerun, settled
from PIL import Image
from playwright.sync_api import expect

from clipdemo import samples

pytestmark = pytest.mark.browser


def file(name, data):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def table(*rows):
    out = io.StringIO()
    csv.writer(out).writerows([["image", "caption", "note"], *rows])
    return out.getvalue().encode()


def noise_jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def bring(page, app, rows, images):
    page.goto(f"{app}/audit")
    inputs = page.locator("[data-testid=stMain] [data-testid=stFileUploaderDropzoneInput]")
    page.get_by_role("button", name="Try an example").wait_for()
    inputs.nth(1).set_input_files(images)
    page.get_by_test_id("stMain").get_by_text(images[-1]["name"]).first.wait_for()
    settled(page)
    inputs.nth(0).set_input_files(file("own.csv", rows))
    page.get_by_role("button", name="Audit under").wait_for()
    settled(page)


def download(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return waiting.value.path().read_bytes()


def test_the_example_is_audited_and_everything_can_be_taken_away(app, page):
    page.goto(f"{app}/audit")
    page.get_by_role("button", name="Try an example").click()
    page.get_by_text("14 of 14 rows scored").wait_for()
    settled(page)
    rows = list(csv.DictReader(io.StringIO(download(page, "Scored table").decode("utf-8-sig"))))
    assert [row["image"] for row in rows if "likely swapped" in row["flag"]] == ["coffee.jpg", "flower.jpg"]
    for name in ("Images and captions", "Matrix (PNG)"):
        Image.open(io.BytesIO(download(page, name)), formats=["PNG"]).verify()
    report = download(page, "Report (HTML)")
    offline = page.context.browser.new_context(offline=True, java_script_enabled=False).new_page()
    offline.set_content(report.decode(), wait_until="load")
    assert offline.get_by_role("heading", name="The worst pairs").is_visible()
    assert offline.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    offline.context.close()
    page.locator("[data-testid=stPlotlyChart] .hm").first.wait_for(state="attached")
    page.get_by_role("button", name="Audit another table").click()
    page.get_by_role("button", name="Try an example").wait_for()


def test_own_tables_with_a_zip_and_hostile_captions(app, page):
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("in/cat.jpg", (samples.SAMPLES / "cat.jpg").read_bytes())
        archive.writestr("in/copy.jpg", (samples.SAMPLES / "cat.jpg").read_bytes())
    rows = table(
        ["cat.jpg", "<img src=x onerror=\"document.title='hacked'\">", "=1+1"],
        ["copy.jpg", "a cat **looking** at me", ""],
        ["../../etc/passwd", "a secret", ""],
    )
    bring(page, app, rows, [file("photos.zip", bundle.getvalue())])
    page.get_by_role("button", name="Audit under").click()
    page.get_by_text("2 of 3 rows scored").wait_for()
    settled(page)
    scored = list(csv.DictReader(io.StringIO(download(page, "Scored table").decode("utf-8-sig"))))
    assert scored[0]["note"] == "'=1+1"
    assert all("duplicate image" in row["flag"] for row in scored[:2])
    assert "upload it" in scored[2]["error"]
    assert "hacked" not in page.title()
    with rerun(page):
        page.get_by_role("radio", name="failed rows").click()
    expect(page.get_by_role("radio", name="failed rows")).to_be_checked()
    assert page.get_by_text("encountered an error").count() == 0


def test_a_long_audit_can_be_left_and_stopped(app, page):
    images = [file(f"{n}.jpg", noise_jpeg(n)) for n in range(120)]
    rows = table(*([f"{n}.jpg", f"noise number {n}", ""] for n in range(120)))
    bring(page, app, rows, images)
    page.get_by_role("button", name="Audit under").click()
    page.get_by_text("rows a second").first.wait_for()
    page.get_by_role("link", name="About").click()
    page.get_by_role("heading", name="About clipdemo").wait_for()
    page.get_by_text("Audit:").first.wait_for()
    page.get_by_role("link", name="Audit").click()
    page.get_by_role("button", name="Stop and keep").click()
    page.get_by_text("Stopped early").wait_for()
    settled(page)
    scored = list(csv.DictReader(io.StringIO(download(page, "Scored table").decode("utf-8-sig"))))
    done = [row for row in scored if row["similarity"]]
    assert len(scored) == 120
    assert 0 < len(done) < 120
    assert all("stopped" in row["error"] for row in scored[len(done) :])


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}], indirect=True
)
def test_a_dark_phone_shows_results_without_scrolling_sideways(app, page):
    page.goto(f"{app}/audit")
    page.get_by_role("button", name="Try an example").click()
    page.get_by_text("14 of 14 rows scored").wait_for()
    page.locator("[data-testid=stPlotlyChart] .hm").first.wait_for(state="attached")
    settled(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400
