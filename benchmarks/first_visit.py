"""Times a first visit against an empty Streamlit page in one browser: ``python -m benchmarks.first_visit``.

Needs the development requirements and a Chromium. Prints medians of several visits, the ratio to the empty
page, and the resident memory of the server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.photographs import TWELVE_MEGAPIXELS, photograph

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from browsing import CHROMIUM, FLAGS, TILE, end, free_port, healthy, running_app, settled, wait_until

VISITS = 7
EMPTY_PAGE = "import streamlit as st\nst.html('<p id=\"here\">here</p>')\n"


@dataclass(frozen=True)
class Paint:
    """Seconds to the first ranked grid, and the server's memory.

    Attributes:
        cold: the first visit after the server started.
        warm: later visits, each with an empty browser cache.
        empty: visits to an empty Streamlit page, in between.
        megabytes: resident memory of the server with a warm model.
    """

    cold: float
    warm: list[float]
    empty: list[float]
    megabytes: float


def main() -> None:
    """Measure and print the figures."""
    times = paint(VISITS, then=hundred_images)
    warm, empty = statistics.median(times.warm), statistics.median(times.empty)
    say("cold server, first ranked grid", times.cold)
    say("warm server, first ranked grid (median)", warm)
    say("warm server, empty Streamlit page (median)", empty)
    print(f"{'ratio to the empty page':48} {warm / empty:6.2f}")
    say("server memory, embedded model warm, MB", times.megabytes, "")


def paint(visits: int, then: Callable[[Browser, str, Path], None] | None = None) -> Paint:
    """Visit the app and an empty page in turn; ``then`` is called with the warm server."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with running_app(folder / "log") as app, empty_app(folder) as empty_page:
            cold = visit(browser, app, TILE)
            time.sleep(20)  # the model warms up
            pairs = [(visit(browser, app, TILE), visit(browser, empty_page, "#here")) for _ in range(visits)]
            warm, empty = (list(seconds) for seconds in zip(*pairs, strict=True))
            megabytes = resident(app)
            if then:
                then(browser, app, folder)
                say("server memory after 100 images, MB", resident(app), "")
        browser.close()
    return Paint(cold, warm, empty, megabytes)


def hundred_images(browser: Browser, app: str, folder: Path) -> None:
    """Upload images up to 100 in the workspace, then time new captions."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(180_000)
    page.goto(app)
    page.locator(TILE).first.wait_for()
    files = [folder / f"{n}.jpg" for n in range(86)]
    for number, file in enumerate(files):
        file.write_bytes(photograph(number, TWELVE_MEGAPIXELS))
    started = time.perf_counter()
    page.locator("[data-testid=stFileUploaderDropzoneInput]").first.set_input_files(files)
    page.get_by_text("100 images").first.wait_for()
    settled(page)
    say("86 uploads of 12 megapixels, decoded and encoded", time.perf_counter() - started)
    say(
        "new caption to new grid, 100 images (median)",
        statistics.median(new_caption(page, n) for n in range(VISITS)),
    )
    page.context.close()


def new_caption(page: Page, number: int) -> float:
    """Return the seconds from applying a new caption to its heading."""
    caption = f"a photograph of object number {number}"
    box = page.get_by_role("textbox", name="One caption a line")
    box.fill(caption)
    started = time.perf_counter()
    box.press("Control+Enter")
    page.get_by_role("heading", name=caption).wait_for()
    seconds = time.perf_counter() - started
    settled(page)
    return seconds


def visit(browser: Browser, address: str, selector: str) -> float:
    """Return the seconds from opening the page, with an empty browser cache, to the element."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    started = time.perf_counter()
    page.goto(address)
    page.locator(selector).first.wait_for()
    seconds = time.perf_counter() - started
    context.close()
    return seconds


class empty_app:  # noqa: N801 - reads as a verb in a with statement
    """A Streamlit page with one word on it, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "empty.py"
        self.script.write_text(EMPTY_PAGE)

    def __enter__(self) -> str:
        """Start the server and wait until it is healthy."""
        port = free_port()
        command = [sys.executable, "-m", "streamlit", "run", str(self.script), "--server.headless", "true"]
        command += [
            "--server.port",
            str(port),
            "--server.address",
            "127.0.0.1",
            "--browser.gatherUsageStats",
            "false",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(partial(healthy, port), 60, "the empty page did not start")
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        end(self.process)


def resident(address: str, field: str = "VmRSS") -> float:
    """Return the resident megabytes of the server at an address ("VmHWM": its peak); Linux only, else nan."""
    port = address.rsplit(":", 1)[1]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
            if port.encode() in command and b"streamlit" in command:
                line = next(row for row in status.read_text().splitlines() if row.startswith(field))
                return int(line.split()[1]) / 1000
        except OSError:
            continue
    return float("nan")


def say(label: str, figure: float, unit: str = " s") -> None:
    """Print one line of the table."""
    print(f"{label:48} {figure:6.2f}{unit}", flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
