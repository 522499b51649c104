"""Ground truth on the Compare page: where it comes from, and how well each checkpoint finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pandas as pd
import streamlit as st

from clipdemo.compare import tables, truth
from clipdemo.compare.truth import Recall, Truth
from clipdemo.errors import CheckpointError, TableError
from clipdemo.tables.table import Table
from clipdemo.ui import views
from clipdemo.ui.pages.audit import job as audits
from clipdemo.ui.pages.audit.page import KINDS
from clipdemo.ui.pages.compare.results import Side
from clipdemo.ui.state import Engine, View

NO_TRUTH, BY_NAME, BY_AUDIT, BY_TABLE = (
    "none",
    "file names are captions",
    "the table on the Audit page",
    "a table of mine",
)


def choose(view: View, shared: Engine) -> Truth | None:
    """What the visitor says is right for these images; None where nothing is."""
    st.subheader("Who finds the right answers?", anchor=False)
    run = audits.current()
    options = [NO_TRUTH, BY_NAME, *([BY_AUDIT] if run else []), BY_TABLE]
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
        table = run.table if chosen == BY_AUDIT and run else _table(shared) if chosen == BY_TABLE else None
        return truth.from_table(table, view.items) if table else None
    except TableError as error:
        st.error(views.plain(str(error), 500), icon=":material/error:")
        return None


def _table(shared: Engine) -> Table | None:
    file = st.file_uploader(
        "Table", KINDS, key="compare-table", help="CSV, TSV, JSONL or Parquet; one row per image and caption."
    )
    if file is None:
        return None
    kept = st.session_state.get("compare-opened")
    if kept is None or kept[0] != file.file_id:  # reading it through takes a while
        table = audits.open_upload(file.name, file.getvalue(), (None, None), shared.limits)
        kept = st.session_state["compare-opened"] = file.file_id, table
    return cast(Table, kept[1])


def recalls(sides: Sequence[Side], asked: Truth | None, view: View) -> dict[str, Recall]:
    """Recall of each checkpoint whose right captions are encoded: title -> figures."""
    if asked is None:
        st.caption(
            "Say which caption is right for which image, and each model's recall is shown: the share of questions "
            "with a right answer among the first 1 or 5."
        )
        return {}
    if not len(asked.pairs):
        st.info("No image of the workspace has a right caption there.", icon=":material/info:")
        return {}
    prompts = asked.prompts(view.templates)
    found: dict[str, Recall] = {}
    for side in sides:
        if side.encoder.missing(asked.images) or side.encoder.missing_captions(prompts):
            st.caption(
                f":material/hourglass_top: **{views.plain(side.title)}** is reading the right captions …"
            )
            continue
        try:
            figures = truth.recall(side.encoder, asked, view.templates)
        except CheckpointError:  # dropped from the store meanwhile; the next run has it again
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
    st.caption(tables.truth_sentence(asked, len(view.items)))
    return found
