"""Script time of a rerun with a full workspace: the real pages, run by Streamlit's script runner.

The time is taken inside the script, from its first line to its last, without the runner's waiting and without
a browser. The embedded model encodes the workspace. Run as a module; prints one JSON object.
"""

from __future__ import annotations

import json
import sys

from streamlit.testing.v1 import AppTest

from benchmarks.machine import resident_megabytes
from benchmarks.photographs import SMALL, captions, photographs
from clipdemo import decode_image
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.ui.state import Engine
from clipdemo.ui.workspace import Workspace


def script() -> None:
    """The entry file without its navigation, which Streamlit's test runner cannot follow."""
    import time

    started = time.perf_counter()
    import streamlit as st

    from benchmarks.reruns import fill
    from clipdemo.ui import inputs, jobs, state
    from clipdemo.ui.pages import rank
    from clipdemo.ui.pages.matrix import page as matrix
    from clipdemo.ui.workspace import workspace

    engine, session = state.engine(), workspace()
    if not session.items:
        fill(engine, session, st.session_state["wanted"])
    view = inputs.sidebar(engine, session)
    page = rank if st.session_state["page"] == "Rank" else matrix
    jobs.run(lambda: page.show(view), view.jobs, engine.loader, session)
    st.session_state["seconds"] = time.perf_counter() - started


def fill(engine: Engine, workspace: Workspace, wanted: tuple[int, int]) -> None:
    """Bring photographs and encode them and the captions."""
    images, texts = wanted
    for number, data in enumerate(photographs(images, SMALL)):
        item = decode_image(data, f"{number}.jpg")
        workspace.items[item.sha256] = item
    encoder = engine.loader.encoder(EMBEDDED)
    assert encoder  # noqa: S101 - the embedded one always is
    encoder.encode_images(list(workspace.items.values()))
    encoder.encode_captions(captions(texts))


def reruns(images: int, texts: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of ``repeats`` reruns of each page, with ``images`` in addition to the samples."""
    app = AppTest.from_function(script, default_timeout=600)
    app.session_state["page"] = "Rank"
    app.session_state["wanted"] = (images, texts)
    app.run()
    app.text_area(key="captions").set_value("\n".join(captions(texts))).run()
    seconds: dict[str, list[float]] = {"Rank": [], "Matrix": []}
    for turn in range(repeats + 1):
        for page, times in seconds.items():
            app.session_state["page"] = page
            app.run()
            if app.exception:
                raise RuntimeError(app.exception[0].message)
            times.append(app.session_state["seconds"])
            if not turn:
                times.clear()  # the first run of a page imports modules and builds figures
    return seconds


if __name__ == "__main__":
    figures = reruns(*map(int, sys.argv[1:4]))
    print(json.dumps({**figures, "megabytes": resident_megabytes()}))
