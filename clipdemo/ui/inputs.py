"""The sidebar: widgets become the session's ``View``. What can be shared is bound to the address bar."""

from __future__ import annotations

from collections.abc import Iterator

import streamlit as st

from clipdemo.errors import CaptionError
from clipdemo.images import addresses, fetch, sources
from clipdemo.images.sources import Source
from clipdemo.limits import MEGABYTE, Limits
from clipdemo.models import catalogue
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.samples import SAMPLE_CAPTIONS, sample_items, sample_sets
from clipdemo.scoring.prompts import PRESETS, Templates, read_captions
from clipdemo.types import ImageItem, Rejected
from clipdemo.ui import picker, views
from clipdemo.ui.state import URL_WORKERS, Engine, View, Workspace, take

OWN_TEMPLATES = "own templates"
NO_SAMPLES = "none"
ALL_SAMPLES = "all"


def sidebar(shared: Engine, space: Workspace) -> View:
    """Show the workspace and read it."""
    with st.sidebar:
        st.subheader("Captions", anchor=False)
        captions_box = st.container()
        st.subheader("Images", anchor=False)
        samples = _samples()
        _bring_images(space, shared.limits)
        _holdings(space, samples, shared.limits)
        st.subheader("Model", anchor=False)
        chosen = _checkpoint(shared)
        templates = _templates()
        encoder = take(shared, space, chosen)
        with captions_box:
            text = st.text_area(
                "One caption a line",
                value="\n".join(SAMPLE_CAPTIONS),
                height=132,
                max_chars=150_000,
                key="captions",
                bind="query-params",
                help="Press Ctrl+Enter to apply. A line may add and remove: "
                "`a beach ++ sunset ^0.5 -- people`.",
            )
            read = read_captions(text or "", shared.limits.captions)
            views.show_lint(read.captions, read.notes, encoder.caption_tokens if encoder else None, chosen)
    items = (*samples, *space.items.values())
    return View(encoder, items, read.captions, templates, chosen, samples)


def _samples() -> tuple[ImageItem, ...]:
    options = [ALL_SAMPLES, *sample_sets(), NO_SAMPLES]
    chosen = st.selectbox("Sample gallery", options, key="samples", bind="query-params")
    if chosen == NO_SAMPLES:
        return ()
    return sample_items(None if chosen in {ALL_SAMPLES, None} else chosen)


def _bring_images(space: Workspace, limits: Limits) -> None:
    ways = ["Files", "Folder", "URLs", "Camera"] if limits.urls_allowed else ["Files", "Folder", "Camera"]
    way = st.segmented_control("Add images", ways, default="Files", required=True, key="way", width="stretch")
    if way == "URLs":
        _urls(space, limits)
    elif way == "Camera":
        taken = st.camera_input("Take a picture", key=f"camera-{space.uploader}")
        if taken:
            _bring(space, [("camera.jpg", taken.getvalue())], "camera", limits)
    else:
        dropped = st.file_uploader(
            "Images or a zip" if way == "Files" else "A folder",
            accept_multiple_files=True if way == "Files" else "directory",
            key=f"upload-{way}-{space.uploader}",
            label_visibility="collapsed",
        )
        if dropped:
            for _ in dropped[limits.images :][:1]:
                reason = f"{len(dropped)} files at once; the first {limits.images} were taken"
                space.rejected.append(Rejected("the drop", "too many", reason, "upload"))
            _bring(
                space, [(file.name, file.getvalue()) for file in dropped[: limits.images]], "upload", limits
            )


def _bring(space: Workspace, files: list[tuple[str, bytes]], kind: str, limits: Limits) -> None:
    """Take the bytes over and empty the widget, so that streamlit drops its own copy."""

    def found() -> Iterator[Source | Rejected]:
        files.reverse()
        while files:  # each file's bytes are let go once it is read
            yield from sources.expand(*files.pop(), kind, limits)

    space.enqueue(found(), limits)
    space.uploader += 1
    st.rerun()


def _urls(space: Workspace, limits: Limits) -> None:
    with st.form("urls", border=False):
        text = st.text_area(
            "One image address a line", key="url-text", placeholder="https://…", height=100, max_chars=120_000
        )
        if st.form_submit_button("Fetch", width="stretch"):
            urls, refused = addresses.parse_urls(text or "", limits)
            for thing in refused:
                space.urls[thing.name] = thing
            _fetch(space, urls, limits)
    failed = [url for url, found in space.urls.items() if _worth_retrying(found)][: limits.urls]
    if failed and st.button(f"Retry {len(failed)} that failed", width="stretch"):
        _fetch(space, failed, limits)
    views.show_url_verdicts(space.urls)


def _worth_retrying(found: Rejected | ImageItem) -> bool:
    settled = {"duplicate", "not a URL", "blocked", "too many"}
    return isinstance(found, Rejected) and found.verdict not in settled


def _fetch(space: Workspace, urls: list[str], limits: Limits) -> None:
    def read(url: str) -> Source:
        return Source(url, "url", lambda: fetch.fetch_bytes(url, limits))

    space.enqueue((read(url) for url in urls), limits, workers=URL_WORKERS)
    st.rerun()


def _holdings(space: Workspace, samples: tuple[ImageItem, ...], limits: Limits) -> None:
    held = sum(3 * item.image.width * item.image.height for item in space.items.values())
    own = f", {len(space.items)} of your own ({held / MEGABYTE:.1f} MB)" if space.items else ""
    st.caption(f"**{len(samples) + len(space.items)} images**: {len(samples)} samples{own}.")
    views.show_rejected(space.rejected)
    if (space.items or space.rejected or space.urls) and st.button("Clear my images", width="stretch"):
        space.clear()
        st.rerun()
    views.show_limits(limits)


def _checkpoint(shared: Engine) -> str:
    chosen = picker.choose(shared)
    fallen = st.session_state.get("fallen", chosen)
    _checkpoint_news(shared, list(dict.fromkeys([chosen, fallen, shared.preferred])))
    return chosen


def _checkpoint_news(shared: Engine, watched: list[str]) -> None:
    """Progress of what is on its way, the switch when it is there, the reason when it is not.

    Args:
        shared: the engine.
        watched: checkpoints to tell about; the first is the one in use.
    """

    def states() -> list[str]:
        return [shared.loader.status(name).state for name in watched]

    # What nobody asked for yet ("idle") is asked for at the end of this run.
    before = states()
    if watched[0] != EMBEDDED and before[0] == "failed":  # since the picker was drawn, which now falls back
        st.rerun()
    moving = not all(state in {"ready", "failed"} for state in before)

    @st.fragment(run_every=1.0 if moving else None)
    def news() -> None:
        for name in watched:
            status = shared.loader.status(name)
            if name != EMBEDDED:  # its cached scores are on the page before it is loaded
                views.show_status(name, status)
            if status.state == "failed":
                _failed(shared, name, status.reason)
            elif status.state == "ready" and name not in {watched[0], EMBEDDED}:
                label = f"{catalogue.title(name)} is ready: switch to it"
                if st.button(label, on_click=_switch, args=(name,), width="stretch"):
                    st.rerun()  # a button in a fragment runs only the fragment
        now = states()
        if moving and now != before and (now[0] != before[0] or all(s in {"ready", "failed"} for s in now)):
            st.rerun()

    news()


def _failed(shared: Engine, name: str, reason: str) -> None:
    st.caption(f":orange[{views.plain(catalogue.title(name))} is not available:] {views.plain(reason, 400)}")
    if st.button("Try again", key=f"retry-{name}", width="stretch"):
        shared.loader.start(name)
        st.rerun()


def _switch(name: str) -> None:
    st.session_state["checkpoint"] = name


def _templates() -> Templates:
    choice = st.selectbox(
        "Prompt template",
        [*PRESETS, OWN_TEMPLATES],
        key="template",
        bind="query-params",
        help="CLIP was trained on sentences: a bare word such as “cat” often does better inside “a photo of …”. "
        "Several templates are averaged (ensembling).",
    )
    if choice != OWN_TEMPLATES:
        return PRESETS.get(choice or "", Templates())
    text = st.text_area(
        "One template a line, {} where the caption goes",
        value="a photo of {}",
        key="own_templates",
        bind="query-params",
    )
    try:
        return Templates.parse(text or "")
    except CaptionError as error:
        st.caption(f":orange[{views.plain(str(error), 300)}]")
        return Templates()
