"""The Matrix page: everything in the workspace against everything, as one heatmap."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from clipdemo.output import files, heatmaps, pictures
from clipdemo.output.heatmaps import Axis
from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import CAPTIONS_CAPTIONS, IMAGES_CAPTIONS, IMAGES_IMAGES, Sheet
from clipdemo.types import ImageItem
from clipdemo.ui import card, views
from clipdemo.ui.pages.matrix.view import Field, field
from clipdemo.ui.scored import Scored, score
from clipdemo.ui.state import View

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
        wanted = "at least two, one a line," if least == 2 else "one a line"
        st.info(f"No captions to compare yet. Type {wanted} in the sidebar.", icon=":material/edit:")
        return
    shown, order = _choices(pairs, scored)
    compared = field(pairs, order, scored)
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
    """Which view, and in which order; both travel in the address bar."""
    matrix = scored.matrix
    options = matrices.views_of(pairs, matrix.cosine.shape, matrix.checkpoint)
    if st.session_state.get("show") not in {None, *options}:
        st.session_state["show"] = options[0]  # other pairs, or another checkpoint, have other views
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shown = st.selectbox("Show", options, key="show", bind="query-params") or matrices.COSINE
        order = st.selectbox(
            "Order",
            ORDERS,
            key="order",
            bind="query-params",
            help="By best match: each image under the caption it fits best. Clustered: like beside like, "
            "so that groups show as blocks.",
        )
    return shown, order or matrices.AS_GIVEN


def _picture(shown: str, sheet: Sheet, compared: Field) -> None:
    tall = len(compared.rows) > SCREEN // 16
    whole = tall and st.toggle("Whole matrix on one screen", key="whole")
    rows, columns = _axes(compared, whole=whole)
    figure = heatmaps.heatmap(sheet, rows, columns, title=compared.title, extra=compared.extra())
    least = heatmaps.heatmap_width(rows, columns)
    # Only numbers of ours go in here. A narrow screen scrolls the chart sideways.
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


def _axes(compared: Field, *, whole: bool) -> tuple[Axis, Axis]:
    """How much room rows and columns take, and their thumbnails."""
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
    """Data URI of the thumbnails in one picture; the session keeps the latest of each axis."""
    if not items:
        return None
    wanted = tuple(item.sha256 for item in items)
    kept: dict[bool, tuple[tuple[str, ...], str]] = st.session_state.setdefault("strips", {})
    if down not in kept or kept[down][0] != wanted:
        tile = min(88, max(8, STRIP_PIXELS // len(items)))
        data = pictures.thumbnail_strip([item.thumbnail for item in items], tile, down=down)
        kept[down] = wanted, "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return kept[down][1]


def _in_words(shown: str, sheet: Sheet, compared: Field) -> str:
    """The heatmap for those who do not see it."""
    down, across = compared.row_names, compared.column_names
    words = f"{shown} of {compared.pairs.lower()}, {len(down)} by {len(across)}, {compared.title}"
    if np.isnan(sheet.values).all():
        return words
    row, column = np.unravel_index(int(np.nanargmax(sheet.positions())), sheet.values.shape)
    return f"{words}; best: {down[row][:60]} with {across[column][:80]}"


def _clicked(compared: Field) -> None:
    """Open the card of the cell just clicked; runs only when the selection has changed.

    So a card that was dismissed stays closed though its cell stays selected. Plotly takes the selection
    back when the same cell is clicked again: that opens the same card again.
    """
    points = st.session_state["cells"]["selection"]["points"]
    if points:
        st.session_state.pop("cell", None)
        if points[0]["curve_number"] == heatmaps.TARGETS:
            st.session_state["cell"] = divmod(points[0]["point_index"], len(compared.columns))
    if "cell" in st.session_state:
        row, column = st.session_state["cell"]
        _open(compared, row, column)


def _open(compared: Field, row: int, column: int) -> None:
    wanted = compared.card(row, column)
    if wanted:
        st.session_state["card"] = wanted


@st.fragment
def _table(shown: str, sheet: Sheet, compared: Field) -> None:
    """The same values for those who read or move by keyboard.

    Moving through the table with the arrows selects; so the card has a button of its own.
    """
    # Numbered, because names may come twice and a table needs each once.
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


def _downloads(shown: str, sheet: Sheet, compared: Field) -> None:
    """Files of what is on the page, made only when asked for."""
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
    rows, columns = _axes(compared, whole=False)  # here, because the session is out of reach below

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

    with st.container(horizontal=True):
        for label, made, name, kind, icon in (
            ("Matrix (CSV)", table, "matrix.csv", "text/csv", "table"),
            ("Picture (PNG)", drawn, "matrix.png", "image/png", "image"),
            ("Interactive (HTML)", page, "matrix.html", "text/html", "code"),
            (
                "Embeddings, cosines (.npz)",
                embeddings,
                "matrix.npz",
                "application/octet-stream",
                "data_array",
            ),
        ):
            st.download_button(label, made, name, kind, on_click="ignore", icon=f":material/{icon}:")
    st.caption(
        f"Scored under {views.describe(matrix.checkpoint)}. The address bar holds pairs, view and order too, "
        "so it can be shared; images you added stay here."
    )
