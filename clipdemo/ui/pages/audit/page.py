"""The Audit page: a table of image,caption rows goes in, a scored and flagged one comes out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import streamlit as st

from clipdemo.errors import ClipdemoError, TableError
from clipdemo.models import catalogue
from clipdemo.tables import table as tables
from clipdemo.tables.table import Table
from clipdemo.ui import views
from clipdemo.ui.pages.audit import job as audits
from clipdemo.ui.pages.audit import results as audit_results
from clipdemo.ui.pages.audit.job import AuditRun
from clipdemo.ui.state import Engine, View

KINDS = ["csv", "tsv", "txt", "jsonl", "ndjson", "parquet"]
FIND = "found by name"


def show(view: View, shared: Engine) -> None:
    """The whole page: choose a table, watch it, read what came of it."""
    st.title("Does every caption fit its image?", anchor=False)
    run = audits.current()
    if run is None:
        _choose(view, shared)
    elif run.audit and run.summary:
        audit_results.show(run, run.audit, run.summary)
    elif run.ended:
        st.error(f"The audit broke off: {views.plain(run.failed, 500)}", icon=":material/error:")
        st.button("Start again", on_click=audits.forget, icon=":material/restart_alt:")
    else:
        _watch(run)


def _choose(view: View, shared: Engine) -> None:
    st.markdown(
        "Bring a table with an image and a caption in each row. Every pair is scored, ranked against all other "
        "captions and images of the table, and flagged where it looks wrong. Of the sidebar, only the checkpoint counts here."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        file = st.file_uploader(
            "Table",
            KINDS,
            key="audit-file",
            max_upload_size=max(1, int(shared.limits.file_bytes / 1e6)),
            help="CSV, TSV, JSONL or Parquet; one row per image and caption.",
        )
        st.caption(
            f"At most {shared.limits.rows:,} rows and {shared.limits.file_bytes / 1e6:g} MB. Images are "
            + ("web addresses or " if shared.limits.urls_allowed else "")
            + "names of files uploaded beside it."
        )
    with right:
        st.file_uploader(
            "Images the table names", key="audit-images", accept_multiple_files=True, help="Files, or a zip."
        )
        st.caption("Only for tables that name files. Nothing is saved.")
    if view.encoder is None:
        views.show_waiting(view.checkpoint)
        return
    under = views.plain(catalogue.title(view.checkpoint))
    if file is None:
        st.button(
            f"Try an example under {under}",
            on_click=_start_example,
            args=(view, shared),
            icon=":material/play_arrow:",
        )
        st.caption("The sample photographs with a caption each. Two captions were swapped on purpose.")
        return
    table = _opened(file, shared)
    if table is None:
        return
    for note in table.notes:
        st.caption(f":orange[{views.plain(note, 300)}]")
    image, caption = table.columns[table.image], table.columns[table.caption]
    st.markdown(
        f"**{table.count:,} rows**: images from the column **{views.plain(image, 60)}**, "
        f"captions from **{views.plain(caption, 60)}**."
    )
    st.button(
        f"Audit under {under}",
        type="primary",
        disabled=not table.count,
        on_click=_start,
        args=(view, shared),  # no bytes: streamlit keeps a button's arguments as long as the session
    )
    if "audit-error" in st.session_state:
        st.error(views.plain(st.session_state.pop("audit-error"), 500))


def _opened(file: Any, shared: Engine) -> Table | None:
    """The uploaded table with the columns found or chosen; says what is wrong with it otherwise."""
    data = file.getvalue()
    try:
        picked = _picked(_columns(file.file_id, file.name, data, shared))
        kept = st.session_state.get("audit-table")
        if kept is None or kept[0] != (file.file_id, picked):  # reading it through takes a while
            table = audits.open_upload(file.name, data, picked, shared.limits)
            kept = st.session_state["audit-table"] = (file.file_id, picked), table
        return cast(Table, kept[1])
    except TableError as error:
        st.error(views.plain(str(error), 500), icon=":material/error:")
        return None


def _columns(file_id: str, name: str, data: bytes, shared: Engine) -> tuple[str, ...]:
    kept = st.session_state.get("audit-columns")
    if kept is None or kept[0] != file_id:
        audits.check_size(data, shared.limits)
        kept = file_id, tables.read_columns(name, lambda: io.BytesIO(data))
        st.session_state["audit-columns"] = kept
    return tuple(kept[1])


def _picked(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """Which columns hold images and captions; None where they are to be found by name."""
    with st.container(horizontal=True):
        image = st.selectbox("Image column", [FIND, *columns], key="audit-image")
        caption = st.selectbox("Caption column", [FIND, *columns], key="audit-caption")
    return (None if image == FIND else image), (None if caption == FIND else caption)


def _start(view: View, shared: Engine) -> None:
    _, table = st.session_state.pop("audit-table", (None, None))
    if table is None:
        return
    images = st.session_state.get("audit-images") or []
    try:
        audits.check_images(sum(each.size for each in images))
        files = [(each.name, each.getvalue()) for each in images]
        locate, rejected = audits.locate_uploads(files, shared.limits)
    except ClipdemoError as error:
        st.session_state["audit-error"] = str(error)
        return
    audits.begin(table, locate, view, shared.limits, rejected)


def _start_example(view: View, shared: Engine) -> None:
    table, locate = audits.example()
    audits.begin(table, locate, view, shared.limits, [])


def _watch(run: AuditRun) -> None:
    st.progress(run.done / max(run.table.count, 1), views.plain(run.progress()))
    st.caption(
        f"{views.plain(run.table.name, 80)} under {views.plain(audits.title(run))}. You may look at other pages meanwhile."
    )
    st.button("Stop and keep what is done", on_click=run.stop, icon=":material/stop:")
