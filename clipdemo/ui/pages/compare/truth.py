"""Ground truth on the Compare page: where it comes from, and the recall of each checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pandas as pd
import streamlit as st

from clipdemo.compare import tables, truth
from clipdemo.compare.truth import Recall, Truth
from clipdemo.errors import CheckpointError, TableError
from clipdemo.tables.table import UPLOAD_SUFFIXES, Table
from clipdemo.ui import audits, views
from clipdemo.ui.pages.compare.results import Side
from clipdemo.ui.state import Engine, View
from clipdemo.ui.uploads import open_uploaded_table

NO_TRUTH, BY_NAME, BY_AUDIT, BY_TABLE = (
    "none",
    "file names are captions",
    "the table on the Audit page",
    "a table of mine",
)


def choose(view: View, engine: Engine) -> Truth | None:
    """The right captions of these images, as the visitor chose; None without any."""
    st.subheader("Who finds the right answers?", anchor=False)
    job = audits.current()
    options = [NO_TRUTH, BY_NAME, *([BY_AUDIT] if job else []), BY_TABLE]
    chosen = st.selectbox(
        "Right captions of these images",
        options,
        key="compare-truth",
        persist_state="session",
        help="A table has an image and a caption in each row; its images are found by file name.",
    )
    if chosen == BY_NAME:
        return truth.from_names(view.items)
    try:
        table = job.table if job and chosen == BY_AUDIT else None
        if chosen == BY_TABLE:
            table = _table(engine)
        return truth.from_table(table, view.items) if table else None
    except TableError as error:
        st.error(views.plain(str(error), 500), icon=":material/error:")
        return None


def _table(engine: Engine) -> Table | None:
    file = st.file_uploader(
        "Table",
        UPLOAD_SUFFIXES,
        key="compare-table",
        help="CSV, TSV, JSONL or Parquet; one row per image and caption.",
    )
    if file is None:
        return None
    cached = st.session_state.get("compare-opened")
    if cached is None or cached[0] != file.file_id:  # reading it through takes a while
        table = open_uploaded_table(file.name, file.getvalue(), engine.limits)
        cached = st.session_state["compare-opened"] = file.file_id, table
    return cast(Table, cached[1])


def recalls(sides: Sequence[Side], ground_truth: Truth | None, view: View) -> dict[str, Recall]:
    """Recall of each checkpoint that has encoded the right captions, by title."""
    if ground_truth is None:
        st.caption(
            "Choose which captions are right for which images to see each model's recall: the share of "
            "queries with a right answer among the first 1 or 5."
        )
        return {}
    if not len(ground_truth.pairs):
        st.info("None of the images has a right caption there.", icon=":material/info:")
        return {}
    prompts = ground_truth.prompts(view.templates)
    found: dict[str, Recall] = {}
    for side in sides:
        if side.encoder.missing(ground_truth.images) or side.encoder.missing_captions(prompts):
            st.caption(
                f":material/hourglass_top: **{views.plain(side.title)}** is encoding the right captions …"
            )
            continue
        try:
            figures = truth.recall(side.encoder, ground_truth, view.templates)
        except CheckpointError:  # dropped from the cache since; the next run encodes it again
            continue
        if figures:
            found[side.title] = figures
    if found:
        rows = tables.recall_rows(found)
        percent = {
            name: st.column_config.NumberColumn(name, format="percent")
            for name in rows[0]
            if "recall" in name
        }
        st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=percent, alt="Recall of each model")
    st.caption(tables.truth_sentence(ground_truth, len(view.items)))
    return found
