"""The Audit page: choose a table of image,caption rows, follow its progress, read the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import streamlit as st

from clipdemo.errors import ClipdemoError, TableError
from clipdemo.limits import MEGABYTE, format_bytes
from clipdemo.models import catalogue
from clipdemo.tables.table import UPLOAD_SUFFIXES, Table
from clipdemo.ui import audits, views
from clipdemo.ui.audits import AuditJob
from clipdemo.ui.pages.audit import results
from clipdemo.ui.state import Engine, View
from clipdemo.ui.uploads import (
    check_image_bytes,
    locate_uploads,
    open_uploaded_table,
    uploaded_columns,
)

FIND = "found by name"


def show(view: View, engine: Engine) -> None:
    """The whole page."""
    st.title("Does every caption fit its image?", anchor=False)
    job = audits.current()
    if job is None:
        _choose(view, engine)
    elif job.audit and job.summary:
        results.show(job, job.audit, job.summary)
    elif job.finished:
        st.error(f"The audit ended early: {views.plain(job.failed, 500)}", icon=":material/error:")
        st.button("Start again", on_click=audits.discard, icon=":material/restart_alt:")
    else:
        _watch(job)


def _choose(view: View, engine: Engine) -> None:
    if "audit-error" in st.session_state:  # of the start that was just tried
        st.error(views.plain(st.session_state.pop("audit-error"), 500), icon=":material/error:")
    st.markdown(
        "Upload a table with an image and a caption in each row. Every pair is scored, ranked against all "
        "other captions and images of the table, and flagged where it looks wrong. Only the model is taken "
        "from the sidebar."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        file = st.file_uploader(
            "Table",
            UPLOAD_SUFFIXES,
            key="audit-file",
            max_upload_size=max(1, engine.limits.file_bytes // MEGABYTE),
            help="CSV, TSV, JSONL or Parquet; one row per image and caption.",
        )
        st.caption(
            f"At most {engine.limits.rows:,} rows and {format_bytes(engine.limits.file_bytes)}. Images are "
            + ("web addresses or " if engine.limits.urls_allowed else "")
            + "names of files uploaded beside it."
        )
    with right:
        st.file_uploader(
            "Images the table names", key="audit-images", accept_multiple_files=True, help="Files, or a zip."
        )
        st.caption("Needed only if the table names files. Nothing is saved.")
    if view.encoder is None:
        views.show_waiting(view.checkpoint)
        return
    under = views.plain(catalogue.title(view.checkpoint))
    if file is None:
        st.button(
            f"Try an example under {under}",
            on_click=_start_example,
            args=(view, engine),
            icon=":material/play_arrow:",
        )
        st.caption("The sample photographs with a caption each. Two captions were swapped on purpose.")
        return
    table = _opened(file, engine)
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
        args=(view, engine),  # without bytes: Streamlit keeps a button's arguments for the whole session
    )


def _opened(file: Any, engine: Engine) -> Table | None:
    """The uploaded table with its columns; None, with a message, if it cannot be used."""
    data = file.getvalue()
    try:
        image, caption = _choose_columns(_columns(file.file_id, file.name, data, engine))
        key = file.file_id, image, caption
        cached = st.session_state.get("audit-table")
        if cached is None or cached[0] != key:  # reading it through takes a while
            table = open_uploaded_table(
                file.name, data, engine.limits, image_column=image, caption_column=caption
            )
            cached = st.session_state["audit-table"] = key, table
        return cast(Table, cached[1])
    except TableError as error:
        st.error(views.plain(str(error), 500), icon=":material/error:")
        return None


def _columns(file_id: str, name: str, data: bytes, engine: Engine) -> tuple[str, ...]:
    cached = st.session_state.get("audit-columns")
    if cached is None or cached[0] != file_id:
        cached = file_id, uploaded_columns(name, data, engine.limits)
        st.session_state["audit-columns"] = cached
    return tuple(cached[1])


def _choose_columns(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """The image and caption column chosen; None where it is to be found by name."""
    with st.container(horizontal=True):
        image = st.selectbox("Image column", [FIND, *columns], key="audit-image")
        caption = st.selectbox("Caption column", [FIND, *columns], key="audit-caption")
    return (None if image == FIND else image), (None if caption == FIND else caption)


def _start(view: View, engine: Engine) -> None:
    _, table = st.session_state.pop("audit-table", (None, None))
    if table is None:
        return
    images = st.session_state.get("audit-images") or []
    try:
        check_image_bytes(sum(each.size for each in images))
        files = [(each.name, each.getvalue()) for each in images]
        locate, rejected = locate_uploads(files, engine.limits)
        audits.start(table, locate, view, engine, rejected)
    except ClipdemoError as error:
        st.session_state["audit-error"] = str(error)


def _start_example(view: View, engine: Engine) -> None:
    table, locate = audits.example()
    try:
        audits.start(table, locate, view, engine, [])
    except ClipdemoError as error:
        st.session_state["audit-error"] = str(error)


def _watch(job: AuditJob) -> None:
    st.progress(job.done / max(job.table.count, 1), views.plain(job.progress_text()))
    st.caption(
        f"{views.plain(job.table.name, 80)} under {views.plain(job.title)}. It goes on while you look at "
        "other pages."
    )
    st.button("Stop and keep what is done", on_click=job.cancel, icon=":material/stop:")
