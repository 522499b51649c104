"""The sidebar: its widgets become the session's ``View``. What can be shared is bound to the address bar."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from clipdemo.errors import CaptionError
from clipdemo.images import addresses, fetch, sources
from clipdemo.images.sources import Source
from clipdemo.limits import Limits, format_bytes
from clipdemo.models import catalogue
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.samples import SAMPLE_CAPTIONS, sample_items, sample_sets
from clipdemo.scoring.prompts import PRESETS, Templates, read_captions
from clipdemo.types import ImageItem, Rejected
from clipdemo.ui import jobs, picker, quota, views
from clipdemo.ui.state import Engine, View, claim_encoder
from clipdemo.ui.workspace import EncodingJob, Workspace

OWN_TEMPLATES = "own templates"
NO_SAMPLES = "none"
ALL_SAMPLES = "all"
URL_WORKERS = 6  # threads that fetch; they wait for the network, not for the processor


def sidebar(engine: Engine, workspace: Workspace) -> View:
    """Show the inputs and read them; hands over the job that encodes the images."""
    with st.sidebar:
        jobs.reserve_progress()
        st.subheader("Captions", anchor=False)
        captions_box = st.container()
        st.subheader("Images", anchor=False)
        samples = _samples()
        _bring_images(workspace, engine.limits)
        _contents(workspace, samples, engine.limits)
        st.subheader("Model", anchor=False)
        chosen = _checkpoint(engine)
        templates = _templates()
        encoder = claim_encoder(engine, workspace, chosen)
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
            read = read_captions(text or "", engine.limits.captions)
            views.show_lint(read.captions, read.notes, encoder.caption_tokens if encoder else None, chosen)
    items = (*samples, *workspace.items.values())
    view = View(encoder, items, read.captions, templates, chosen, samples)
    view.hand_over(EncodingJob(engine, workspace, chosen, encoder, samples))
    return view


def _samples() -> tuple[ImageItem, ...]:
    options = [ALL_SAMPLES, *sample_sets(), NO_SAMPLES]
    chosen = st.selectbox("Sample gallery", options, key="samples", bind="query-params")
    if chosen == NO_SAMPLES:
        return ()
    return sample_items(None if chosen in {ALL_SAMPLES, None} else chosen)


def _bring_images(workspace: Workspace, limits: Limits) -> None:
    ways = ["Files", "Folder", "URLs", "Camera"] if limits.urls_allowed else ["Files", "Folder", "Camera"]
    way = st.segmented_control("Add images", ways, default="Files", required=True, key="way", width="stretch")
    if way == "URLs":
        _urls(workspace, limits)
    elif way == "Camera":
        taken = st.camera_input("Take a picture", key=f"camera-{workspace.uploads}")
        if taken:
            _bring(workspace, [taken], "camera", limits)
    else:
        dropped = st.file_uploader(
            "Images or a zip" if way == "Files" else "A folder",
            accept_multiple_files=True if way == "Files" else "directory",
            key=f"upload-{way}-{workspace.uploads}",
            label_visibility="collapsed",
        )
        if dropped:
            if len(dropped) > limits.images:
                reason = f"{len(dropped)} files at once; the first {limits.images} were taken"
                workspace.rejected.append(Rejected("the drop", "too many", reason, "upload"))
            _bring(workspace, dropped, "upload", limits)


def _bring(workspace: Workspace, uploads: Collection[UploadedFile], kind: str, limits: Limits) -> None:
    """Take the files over and empty the widget."""
    files, held = quota.take_over(uploads, limits.images)

    def found() -> Iterator[Source | Rejected]:
        files.reverse()
        while files:  # releases each file's bytes once it is read
            name, data = files.pop()
            yield from sources.expand("camera.jpg" if kind == "camera" else name, data, kind, limits)
            held.nbytes -= len(data)

    workspace.enqueue(found(), limits)
    workspace.uploads += 1
    st.rerun()


def _urls(workspace: Workspace, limits: Limits) -> None:
    with st.form("urls", border=False):
        text = st.text_area(
            "One image address a line", key="url-text", placeholder="https://…", height=100, max_chars=120_000
        )
        if st.form_submit_button("Fetch", width="stretch"):
            urls, refused = addresses.parse_urls(text or "", limits)
            for rejected in refused:
                workspace.urls[rejected.name] = rejected
            _fetch(workspace, urls, limits)
    failed = [url for url, verdict in workspace.urls.items() if _worth_retrying(verdict)][: limits.urls]
    if failed and st.button(f"Retry {len(failed)} that failed", width="stretch"):
        _fetch(workspace, failed, limits)
    views.show_url_verdicts(workspace.urls)


def _worth_retrying(verdict: Rejected | ImageItem) -> bool:
    final = {"duplicate", "not a URL", "blocked", "too many"}
    return isinstance(verdict, Rejected) and verdict.verdict not in final


def _fetch(workspace: Workspace, urls: list[str], limits: Limits) -> None:
    def read(url: str) -> Source:
        return Source(url, "url", lambda: fetch.fetch_bytes(url, limits))

    workspace.enqueue((read(url) for url in urls), limits, workers=URL_WORKERS)
    st.rerun()


def _contents(workspace: Workspace, samples: tuple[ImageItem, ...], limits: Limits) -> None:
    pixel_bytes = sum(3 * item.image.width * item.image.height for item in workspace.items.values())
    own = f", {len(workspace.items)} of your own ({format_bytes(pixel_bytes)})" if workspace.items else ""
    st.caption(f"**{len(samples) + len(workspace.items)} images**: {len(samples)} samples{own}.")
    views.show_rejected(workspace.rejected)
    if (workspace.items or workspace.rejected or workspace.urls) and st.button(
        "Clear my images", width="stretch"
    ):
        workspace.clear()
        st.rerun()
    views.show_limits(limits)


def _checkpoint(engine: Engine) -> str:
    chosen = picker.choose(engine)
    failed_before = st.session_state.get("fallen", chosen)
    _checkpoint_states(engine, list(dict.fromkeys([chosen, failed_before, engine.preferred])))
    return chosen


def _checkpoint_states(engine: Engine, watched: list[str]) -> None:
    """Download progress of each checkpoint, a button to switch once it is ready, or why it failed.

    Args:
        engine: of the process.
        watched: names of checkpoints; the first is the one in use.
    """

    def states() -> list[str]:
        return [engine.loader.status(name).state for name in watched]

    # An "idle" checkpoint starts to load at the end of this run.
    before = states()
    if watched[0] != EMBEDDED and before[0] == "failed":  # since the picker was drawn; it falls back now
        st.rerun()
    changing = not all(state in {"ready", "failed"} for state in before)

    @st.fragment(run_every=1.0 if changing else None)
    def show_states() -> None:
        for name in watched:
            status = engine.loader.status(name)
            if name != EMBEDDED:  # its cached scores are shown before it is loaded
                views.show_status(name, status)
            if status.state == "failed":
                _failed(engine, name, status.reason)
            elif status.state == "ready" and name not in {watched[0], EMBEDDED}:
                label = f"{catalogue.title(name)} is ready: switch to it"
                if st.button(label, on_click=_switch, args=(name,), width="stretch"):
                    st.rerun()  # a button in a fragment runs only the fragment
        now = states()
        if changing and now != before and (now[0] != before[0] or all(s in {"ready", "failed"} for s in now)):
            st.rerun()

    show_states()


def _failed(engine: Engine, name: str, reason: str) -> None:
    st.caption(f":orange[{views.plain(catalogue.title(name))} is not available:] {views.plain(reason, 400)}")
    if st.button("Try again", key=f"retry-{name}", width="stretch"):
        engine.loader.start(name)
        st.rerun()


def _switch(name: str) -> None:
    st.session_state["checkpoint"] = name


def _templates() -> Templates:
    choice = st.selectbox(
        "Prompt template",
        [*PRESETS, OWN_TEMPLATES],
        key="template",
        bind="query-params",
        help="CLIP was trained on sentences: a bare word such as “cat” often does better inside "
        "“a photo of …”. Several templates are averaged (ensembling).",
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
