"""The Content-Security-Policy of the server in a real browser: all pages work, and ask nobody else."""

from __future__ import annotations

import pytest
from app_pages import picture
from browsing import TILE, settled

pytestmark = pytest.mark.browser


def test_no_page_breaks_the_policy(app, page):
    """Every page, a picture from the camera and one from a file, a chart and a download, in Chromium."""
    messages, foreign = [], []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: foreign.append(request.url))
    page.context.grant_permissions(["camera"])
    page.goto(app)
    page.locator(TILE).first.wait_for()
    settled(page)
    upload = {"name": "red.png", "mimeType": "image/png", "buffer": picture("red")}
    page.locator("input[type=file]").first.set_input_files(upload)
    page.get_by_text(", 1 of your own").wait_for()
    page.get_by_text("Camera", exact=True).click()
    # The camera has a picture.
    page.wait_for_function("() => document.querySelector('video')?.readyState === 4")
    settled(page)
    page.get_by_role("button", name="Take Photo").click()
    page.get_by_text(", 2 of your own").wait_for()
    for name in ("Matrix", "Compare", "Audit", "About"):
        page.get_by_role("link", name=name).first.click()
        settled(page)
        if name == "Matrix":
            page.locator(".js-plotly-plot .nsewdrag").first.wait_for()
            with page.expect_download():
                page.locator("[data-testid=stDownloadButton] button").first.click()
        if name == "Audit":
            page.get_by_role("button", name="Try an example").click()
            page.get_by_text("14 of 14 rows scored").wait_for()
            settled(page)
    assert messages == []
    assert [url for url in foreign if not url.startswith((app, "data:", "blob:"))] == []
