"""Starting the real app and driving it in headless Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Page, TimeoutError

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
TILE = "[class*=st-key-grid-] img"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_app(log: Path, **environment: str) -> Iterator[str]:
    """Start the app, wait until it is healthy, give its address, end it."""
    with running_server(log, **environment) as (address, _):
        yield address


@contextmanager
def running_server(log: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start the app, wait until it is healthy, give its address and its process, end it."""
    port = free_port()
    settings = {
        "HF_HOME": str(log.parent / "hf-home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nothing listens there: the hub is down
        **environment,
    }
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    command += ["--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLIPDEMO_", "HF_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**kept, **settings}, stdout=output, stderr=output)
        try:
            wait_until(lambda: healthy(port), 60, f"the app did not start:\n{log.read_text()}")
            yield f"http://127.0.0.1:{port}", process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server; one that loads its model does so first."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until(true: Callable[[], bool], seconds: float, otherwise: str) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


# Counts how often the script began or ended, and notes when the page last changed.
WATCH = """() => {
    const body = document.body
    if (body.turns === undefined) {
        body.turns = 0
        new MutationObserver(changes => {
            body.lastChange = performance.now()
            body.turns += changes.filter(one => one.attributeName === "data-test-script-state").length
        }).observe(body, { attributes: true, characterData: true, childList: true, subtree: true })
    }
    body.lastChange = performance.now()
    return body.turns
}"""
QUIET = """() => {
    const app = document.querySelector("[data-testid=stApp]")
    return app?.dataset.testScriptState === "notRunning" && performance.now() - document.body.lastChange > 300
}"""


def settled(page: Page) -> None:
    """Wait until the script has run and the page has not changed for 0.3 s; elements come in any order."""
    page.evaluate(WATCH)
    page.wait_for_function(QUIET, timeout=180_000)


@contextmanager
def rerun(page: Page) -> Iterator[None]:
    """What is done inside makes the script run; wait until it has, and the page is quiet."""
    settled(page)
    before = page.evaluate(WATCH)
    yield
    with suppress(TimeoutError):  # a run so short that the browser never drew it as running
        page.wait_for_function("before => document.body.turns > before", arg=before, timeout=5_000)
    settled(page)


def ranked(page: Page, address: str) -> None:
    """Open the page and wait until its first grid is drawn."""
    page.goto(address)
    page.locator(TILE).first.wait_for()
    settled(page)


def write_captions(page: Page, *captions: str) -> None:
    """Type captions and apply them as a visitor does."""
    box = page.get_by_role("textbox", name="One caption a line")
    with rerun(page):
        box.fill("\n".join(captions))
        box.press("Control+Enter")


def tile_names(page: Page) -> list[str]:
    """Names of the images on screen, best first, as read out by their alternative texts."""
    return [image.get_attribute("alt").replace("\u2060", "") for image in page.locator(TILE).all()]
