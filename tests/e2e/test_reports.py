"""The three HTML reports in a real browser: they are drawn, and block requests and foreign scripts."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from plain_encoder import BACKGROUND, SQUARES, PlainEncoder, Shelf, scored, table_of
from tiny_checkpoints import COLOURS, square

from clipdemo.audit.footprint import Footprint, Stage
from clipdemo.audit.judge import judge
from clipdemo.audit.report import Usage, audit_html
from clipdemo.compare import truth
from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import compare_matrices
from clipdemo.compare.report import ReportDetails, comparison_html
from clipdemo.output.heatmaps import Axis, heatmap, heatmap_html
from clipdemo.output.html import data_uri
from clipdemo.output.pictures import thumbnail_strip
from clipdemo.scoring.matrix import Sheet
from clipdemo.scoring.prompts import Templates
from clipdemo.scoring.score import score_matrix

pytestmark = pytest.mark.browser

HOSTILE = [
    "<script>document.title = 'taken over'</script>",
    '"><img src=http://127.0.0.1:9/x.png onerror="document.title = \'taken over\'">',
    "<style>@import url(http://127.0.0.1:9/x.css); body { display: none }</style>",
    "</script><script>document.title = 'taken over'</script>",
    "</title></style><svg onload=\"document.title = 'taken over'\"><meta http-equiv=refresh "
    "content='0; url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/><link rel=prefetch href=x><link rel=dns-prefetch href=//canary.example>",
    "<form action=http://127.0.0.1:9/><input autofocus onfocus=\"document.title = 'taken over'\"></form>",
    "<iframe srcdoc=\"<script>top.title = 'taken over'</script>\"></iframe><object data=//x.example>",
]
VIOLATIONS = """() => {
    window.violations = []
    document.addEventListener("securitypolicyviolation", violation => {
        window.violations.push(violation.effectiveDirective)
    })
}"""
# What a script on the page would try, were one to get in.
ATTEMPTS = """async address => {
    const picture = new Image()
    picture.src = address
    const script = document.createElement("script")
    script.textContent = "document.title = 'taken over'"
    document.body.append(picture, script)
    try { await fetch(address) } catch {}
    await new Promise(done => setTimeout(done, 200))
    return window.violations
}"""


def audit_report(item_of):
    files = {**SQUARES, **dict.fromkeys(HOSTILE, SQUARES["red.png"])}
    table, encoder = table_of([(name, name) for name in HOSTILE]), PlainEncoder(HOSTILE[0])
    ledger = scored(table, encoder, locate=Shelf(files).locate)
    audit = judge(table, ledger, encoder.checkpoint, BACKGROUND, Footprint())
    return audit_html(audit, audit.summary(), Usage([Stage(HOSTILE[0], 1.0, 3)], 2.0, "cpu", 5_000_000, None))


def comparison_report(item_of):
    items = [item_of(square(colour), name) for colour, name in zip(COLOURS, HOSTILE, strict=False)]
    encoders = [PlainEncoder(name) for name in HOSTILE[:2]]
    comparison = compare_matrices([score_matrix(encoder, items, HOSTILE) for encoder in encoders])
    right = truth.from_names(items)
    costs = {name: Cost(PlainEncoder().checkpoint, "cpu", "float32", None, None) for name in HOSTILE[:2]}
    recalls = {HOSTILE[0]: truth.recall(encoders[0], right, Templates())}
    details = ReportDetails(Templates((HOSTILE[0] + "{}",)), costs, recalls, right)
    return comparison_html(comparison, HOSTILE[:2], details, 3)


def matrix_report(item_of):
    values = np.eye(len(HOSTILE), dtype=np.float32)
    thumbnails = [item_of(square("red"), name).thumbnail for name in HOSTILE]
    strip = data_uri(thumbnail_strip(thumbnails, 44, down=True))
    sheet = Sheet(values, "cosine", 0.0, 1.0, 3)
    figure = heatmap(sheet, Axis(HOSTILE, strip), Axis(HOSTILE), title=HOSTILE[0], extra=[values])
    figure.update_layout(width=900)
    return heatmap_html(figure, HOSTILE[0], HOSTILE[3])


@pytest.fixture
def opened(page, item_of, tmp_path):
    """Opens a report; returns the addresses that its page asks for and the messages on its console."""

    def open_report(make):
        requests, messages = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.add_init_script(f"({VIOLATIONS})()")
        file = tmp_path / "report.html"
        file.write_text(make(item_of), encoding="utf-8")
        page.goto(file.as_uri())
        return requests, messages

    return open_report


@pytest.mark.parametrize("make", [audit_report, comparison_report, matrix_report])
def test_a_report_is_drawn_and_asks_for_nothing(opened, page, make):
    requests, messages = opened(make)
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.wait_for_timeout(200)
    assert messages == []
    assert page.evaluate("window.violations") == []
    assert page.title() != "taken over"
    assert [url for url in requests[1:] if not url.startswith(("data:", "blob:"))] == []
    assert page.evaluate("getComputedStyle(document.querySelector('main h1')).overflowWrap") == "anywhere"


@pytest.mark.parametrize("make", [audit_report, comparison_report, matrix_report])
def test_the_policy_blocks_a_request_and_a_script_that_got_in(opened, page, make):
    opened(make)
    with socket.create_server(("127.0.0.1", 0)) as server:
        violations = page.evaluate(ATTEMPTS, f"http://127.0.0.1:{server.getsockname()[1]}/x")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert {"img-src", "script-src-elem", "connect-src"} <= set(violations)
    assert page.title() != "taken over"


def test_the_matrix_can_be_hovered_over_and_saved_as_a_picture(opened, page):
    _, messages = opened(matrix_report)
    cells = page.locator(".js-plotly-plot .nsewdrag").first
    cells.hover()
    assert "cosine" in page.locator(".hoverlayer").text_content()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download plot as a PNG").click()
    assert download.value.suggested_filename.endswith(".png")
    assert messages == []


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}], indirect=True
)
@pytest.mark.parametrize("make", [audit_report, comparison_report, matrix_report])
def test_a_report_fits_a_phone(opened, page, make):
    opened(make)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
