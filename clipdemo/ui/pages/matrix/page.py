"""The Matrix page: images and captions of the workspace against each other, as one heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from clipdemo.output import files, heatmaps, pictures
from clipdemo.output.heatmaps import Axis
from clipdemo.output.html import data_uri
from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import CAPTIONS_CAPTIONS, IMAGES_CAPTIONS, IMAGES_IMAGES, Sheet
from clipdemo.types import ImageItem
from clipdemo.ui import card, views
from clipdemo.ui.pages.matrix.view import MatrixView, matrix_view
from clipdemo.ui.scored import Scored, score
from clipdemo.ui.state import View
from clipdemo.ui.views import Download, show_downloads

ORDERS = [matrices.AS_GIVEN, matrices.BY_BEST, matrices.CLUSTERED]
STRIP_PIXELS = 12_000  # longer pictures do not fit a browser's texture
SCREEN = 640  # pixels of cells that a laptop shows at once


def show(view: View) -> None:
    """The whole page, from what can be scored now."""
    st.title("What goes with what?", anchor=False)
    scored = score(view)
    if scored is None:
        return
    pairs = _pairs()
    least = {IMAGES_CAPTIONS: 1, IMAGES_IMAGES: 0, CAPTIONS_CAPTIONS: 2}[pairs]
    if len(view.captions) < least:
        number = "at least two" if least == 2 else "them"
        st.info(
            f"No captions to compare yet. Type {number} in the sidebar, one per line.", icon=":material/edit:"
        )
        return
    shown, order = _choices(pairs, scored)
    compared = matrix_view(pairs, order, scored)
    sheet = compared.sheet(shown)
    _picture(shown, sheet, compared)
    _table(shown, sheet, compared)
    _downloads(shown, sheet, compared)
    if "card" in st.session_state:
        card.show(st.session_state["card"], view, scored.matrix, scored.scale)


def _pairs() -> str:
    chosen = st.segmented_control(
        "Pairs",
        [IMAGES_CAPTIONS, IMAGES_IMAGES, CAPTIONS_CAPTIONS],
        default=IMAGES_CAPTIONS,
        required=True,
        key="pairs",
        bind="query-params",
        label_visibility="collapsed",
    )
    return chosen or IMAGES_CAPTIONS


def _choices(pairs: str, scored: Scored) -> tuple[str, str]:
    """The view and its order; both are in the address bar."""
    matrix = scored.matrix
    options = matrices.views_of(pairs, matrix.cosine.shape, matrix.checkpoint)
    if st.session_state.get("show") not in {None, *options}:
        st.session_state["show"] = options[0]  # other pairs or another checkpoint offer other views
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shown = st.selectbox("Show", options, key="show", bind="query-params") or matrices.COSINE
        order = st.selectbox(
            "Order",
            ORDERS,
            key="order",
            bind="query-params",
            help="By best match: each image below the caption it matches best. Clustered: similar rows next "
            "to each other, so that groups show as blocks.",
        )
    return shown, order or matrices.AS_GIVEN


def _picture(shown: str, sheet: Sheet, compared: MatrixView) -> None:
    tall = len(compared.rows) > SCREEN // 16
    whole = tall and st.toggle("Whole matrix on one screen", key="whole")
    rows, columns = _axes(compared, whole=whole)
    figure = heatmaps.heatmap(sheet, rows, columns, title=compared.title, extra=compared.extra())
    least = heatmaps.heatmap_width(rows, columns)
    # Holds only our own numbers. A narrow screen scrolls the chart sideways.
    room = f"min-width: {least}px" + (f"; max-width: {least}px" if columns.strip else "")
    st.html(f"<style>.st-key-cells, .st-key-cells .stPlotlyChart {{ {room}; }}</style>")
    with st.container(key="heatmap", height=720 if tall and not whole else "content", border=False):
        st.plotly_chart(
            figure,
            key="cells",
            on_select=lambda: _clicked(compared),
            selection_mode="points",
            config={"displayModeBar": False, "typesetMath": False},
            alt=_in_words(shown, sheet, compared),
        )
    hint = "" if compared.pairs == CAPTIONS_CAPTIONS else " Click a cell for its score card."
    st.caption(f"{matrices.MEANINGS[shown]}{hint}")


def _axes(compared: MatrixView, *, whole: bool) -> tuple[Axis, Axis]:
    """Cell sizes, labels and thumbnails of both sides."""
    down, across = compared.row_names, compared.column_names
    count = max(1, len(down))
    cell = max(2, SCREEN // count) if whole else int(np.clip(SCREEN // count, 20, 44))
    rows = Axis(down, _strip(compared.row_images, down=True), cell, labelled=cell >= 12)
    if compared.pairs != IMAGES_IMAGES:
        few = len(across) <= 6
        return rows, Axis(across, None, 84 if few else 14, wrapped=few)
    # Thumbnails on both sides, in the same order, need square cells.
    return rows, Axis(across, _strip(compared.row_images, down=False), cell, labelled=cell >= 12)


def _strip(items: Sequence[ImageItem], *, down: bool) -> str | None:
    """Data URI of the thumbnails in one picture; the session caches the latest of each axis."""
    if not items:
        return None
    hashes = tuple(item.sha256 for item in items)
    cached: dict[bool, tuple[tuple[str, ...], str]] = st.session_state.setdefault("strips", {})
    if down not in cached or cached[down][0] != hashes:
        tile = min(88, max(8, STRIP_PIXELS // len(items)))
        data = pictures.thumbnail_strip([item.thumbnail for item in items], tile, down=down)
        cached[down] = hashes, data_uri(data)
    return cached[down][1]


def _in_words(shown: str, sheet: Sheet, compared: MatrixView) -> str:
    """The heatmap as text, for screen readers."""
    down, across = compared.row_names, compared.column_names
    words = f"{shown} of {compared.pairs.lower()}, {len(down)} by {len(across)}, {compared.title}"
    if np.isnan(sheet.values).all():
        return words
    row, column = np.unravel_index(int(np.nanargmax(sheet.positions())), sheet.values.shape)
    return f"{words}; best: {down[row][:60]} with {across[column][:80]}"


def _clicked(compared: MatrixView) -> None:
    """Open the card of the cell just clicked; runs only when the selection changes.

    A dismissed card therefore stays closed although its cell stays selected. A second click on the same cell
    clears Plotly's selection: that opens the same card again.
    """
    points = st.session_state["cells"]["selection"]["points"]
    if points:
        st.session_state.pop("cell", None)
        if points[0]["curve_number"] == heatmaps.TARGETS:
            st.session_state["cell"] = divmod(points[0]["point_index"], len(compared.columns))
    if "cell" in st.session_state:
        row, column = st.session_state["cell"]
        _open(compared, row, column)


def _open(compared: MatrixView, row: int, column: int) -> None:
    chosen = compared.card(row, column)
    if chosen:
        st.session_state["card"] = chosen


@st.fragment
def _table(shown: str, sheet: Sheet, compared: MatrixView) -> None:
    """The same values as a table, for keyboard and screen reader.

    Arrow keys move the selection, so the score card has a button of its own.
    """
    # Numbered, because names may repeat and a table needs unique ones.
    down = [f"{n}. {name[:200]}" for n, name in enumerate(compared.row_names, start=1)]
    across = [f"{n}. {name[:200]}" for n, name in enumerate(compared.column_names, start=1)]
    with st.expander("As a table", icon=":material/table:"):
        numbers = np.round(sheet.values.astype(float), sheet.decimals)
        table = pd.DataFrame(numbers, pd.Index(down, name=sheet.unit), across)
        alt = f"{shown} of {compared.pairs.lower()}, {compared.title}"
        if compared.pairs == CAPTIONS_CAPTIONS:
            st.dataframe(table, placeholder="–", alt=alt)
            return
        picked = st.dataframe(
            table, key="table", placeholder="–", alt=alt, on_select="rerun", selection_mode="single-cell"
        )
        cells = picked["selection"]["cells"]
        row, column = (cells[0][0], across.index(cells[0][1])) if cells and cells[0][1] in across else (0, 0)
        has_card = bool(cells) and row < len(down) and not np.isnan(sheet.values[row, column])
        pair = f" of {views.plain(down[row], 40)} with {views.plain(across[column], 60)}" if has_card else ""
        if st.button(f"Score card{pair}", key="table-card", disabled=not has_card):
            _open(compared, row, column)
            st.rerun()
        if not has_card:
            st.caption("Choose a cell with the mouse or the arrow keys.")


def _downloads(shown: str, sheet: Sheet, compared: MatrixView) -> None:
    """Files to take away."""
    scored, matrix = compared.scored, compared.scored.matrix
    down, across = compared.row_names, compared.column_names
    title = f"{shown}, {compared.pairs.lower()}, {compared.title}"
    patterns = " | ".join(scored.templates.patterns)
    notes = {
        "view": title,
        "checkpoint": matrix.checkpoint.id,
        "revision": matrix.checkpoint.revision,
        "templates": patterns,
    }
    footer = f"{title}; revision {matrix.checkpoint.revision[:40]}; templates: {patterns}"
    thumbnails = [item.thumbnail for item in compared.row_images] or None
    rows, columns = _axes(compared, whole=False)  # here: the session cannot be read while a file is made

    def drawn() -> bytes:
        labels = pictures.MatrixLabels(down, across, title, footer, thumbnails)
        return pictures.matrix_png(sheet, labels)

    def page() -> bytes:
        figure = heatmaps.heatmap(sheet, rows, columns, title=compared.title, extra=compared.extra())
        least = heatmaps.heatmap_width(rows, columns)
        figure.update_layout(width=least if columns.strip else max(900, least))
        return heatmaps.heatmap_html(figure, title, f"{matrices.MEANINGS[shown]} {footer}").encode()

    def table() -> bytes:
        return files.matrix_csv(sheet.values, down, across, notes)

    def embeddings() -> bytes:
        return files.embeddings_npz(scored.encoder, matrix.images, matrix.captions, scored.templates)

    show_downloads(
        [
            Download("Matrix (CSV)", "matrix.csv", "text/csv", table, "table"),
            Download("Picture (PNG)", "matrix.png", "image/png", drawn, "image"),
            Download("Interactive (HTML)", "matrix.html", "text/html", page, "code"),
            Download(
                "Embeddings, cosines (.npz)",
                "matrix.npz",
                "application/octet-stream",
                embeddings,
                "data_array",
            ),
        ]
    )
    st.caption(
        f"Scored under {views.describe(matrix.checkpoint)}. The address bar also holds pairs, view and "
        "order, so you can share it; your own images are not part of the link."
    )
