"""A score matrix as a Plotly heatmap that reacts to hovering and clicks; must not import streamlit."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clipdemo.output.charts import wrap
from clipdemo.output.html import inline_script_hashes, render
from clipdemo.scoring.matrix import COLOURS, Sheet
from clipdemo.similarity import FloatArray

FEW_CELLS = 150  # up to here the cells show their numbers
TARGETS = 1  # index of the trace whose points are the clickable cells
_TRANSPARENT = "rgba(0,0,0,0)"
_INVISIBLE = {
    "xaxis": "x2",
    "yaxis": "y2",
    "mode": "markers",
    "marker": {"symbol": "square", "opacity": 0, "maxdisplayed": 1},
    "selected": {"marker": {"opacity": 0}},
    "unselected": {"marker": {"opacity": 0}},
}


@dataclass(frozen=True)
class Axis:
    """The rows or columns of a heatmap.

    Attributes:
        names: in the order shown; untrusted.
        strip: data URI of one picture of the thumbnails in that order, squares of one size; None without.
        cell: height of a row or least width of a column, in pixels.
        wrapped: whether column names are upright in a few lines instead of sideways in one.
        labelled: whether names are shown.
    """

    names: Sequence[str]
    strip: str | None = None
    cell: int = 40
    wrapped: bool = False
    labelled: bool = True

    @property
    def length(self) -> int:
        """Pixels of all rows or columns together."""
        return self.cell * len(self.names)


def heatmap(sheet: Sheet, rows: Axis, columns: Axis, *, title: str, extra: Sequence[FloatArray]) -> go.Figure:
    """A score matrix as coloured cells that react to hovering and clicks.

    Plotly's heatmaps lack a selection event, so an invisible scatter of the cells' centres lies above: point
    ``row * n_columns + column`` of trace ``TARGETS``. Plotly draws one of its markers (``maxdisplayed``),
    because thousands would slow the page down; hovering and selecting go by distance.

    Args:
        sheet: (n_rows, n_columns) values in the order shown, with their colour range.
        rows: top to bottom.
        columns: left to right.
        title: names the checkpoint; a colour scale applies to one checkpoint only.
        extra: (n_rows, n_columns) cosines and optionally percentiles, for the hover text.
    """
    few = sheet.values.size <= FEW_CELLS
    gap = 2 if few else 0  # without gaps Plotly draws one pixel for each cell, which the browser scales up
    left, top = _row_margin(rows), _column_margin(columns)
    figure = go.Figure(
        [
            go.Heatmap(
                z=sheet.positions(),
                zmin=0,
                zmax=1,
                colorscale=[[n / (len(COLOURS) - 1), colour] for n, colour in enumerate(COLOURS)],
                xgap=gap,
                ygap=gap,
                hoverinfo="skip",
                text=_numbers(sheet) if few else None,
                texttemplate="%{text}" if few else None,
                colorbar=_colour_bar(sheet, rows.length + top + 8),
            ),
            _targets(sheet, extra),
            _diagonal(sheet),
        ]
    )
    figure.update_layout(
        xaxis=_axis(columns, side="top", tickangle=0 if columns.wrapped else -90),
        yaxis=_axis(rows, range=[len(rows.names) - 0.5, -0.5]),
        xaxis2=_full_names(columns, overlaying="x", matches="x"),
        yaxis2=_full_names(rows, overlaying="y", matches="y"),
        images=[
            _strip(axis, down=down)
            for axis, down in ((rows, True), (columns, False))
            if axis.strip is not None
        ],
        annotations=[_heading(f"{sheet.unit}, {title}", top)],
        height=rows.length + top + 8,
        margin={"l": left, "r": _right_margin(left, columns), "t": top, "b": 8, "pad": 0},
        hovermode="closest",
        hoverdistance=-1,
        hoverlabel={"align": "left"},
        showlegend=False,
        plot_bgcolor=_TRANSPARENT,
    )
    return figure


def heatmap_width(rows: Axis, columns: Axis) -> int:
    """The least width of a heatmap in pixels."""
    left = _row_margin(rows)
    return left + columns.length + _right_margin(left, columns)


def heatmap_html(figure: go.Figure, title: str, note: str) -> str:
    """The figure as one HTML file with plotly.js inside, which opens offline and makes no request.

    Args:
        figure: any figure.
        title: names what is shown and the checkpoint; untrusted.
        note: a line below the figure; untrusted.
    """
    chart = figure.to_html(
        full_html=False, include_plotlyjs=True, include_mathjax=False, config={"displaylogo": False}
    )
    hashes = inline_script_hashes(chart)
    return render("matrix.html", title=title, chart=chart, script_hashes=hashes, note=note)


def _targets(sheet: Sheet, extra: Sequence[FloatArray]) -> go.Scatter:
    """The points to hover over and click; the hover text takes its names from the invisible axes."""
    count, across = sheet.values.shape
    row, column = np.divmod(np.arange(count * across), max(1, across))
    extras = "".join(
        f"<br>{name} %{{customdata[{n}]:{form}}}"
        for n, (name, form) in enumerate([("cosine", ".3f"), ("percentile", ".0f")][: len(extra)], start=1)
    )
    value = (
        ""
        if sheet.unit in {"cosine", "percentile"}
        else f"<br>{sheet.unit}: %{{customdata[0]:.{sheet.decimals}f}}"
    )
    defined = ~np.isnan(sheet.values.ravel())  # moves empty cells out of reach
    return go.Scatter(
        x=np.where(defined, column, -9),
        y=row,
        customdata=np.stack([np.nan_to_num(part).ravel() for part in (sheet.values, *extra)], axis=1),
        hovertemplate=f"<b>%{{y}}</b><br>%{{x}}{value}{extras}<extra></extra>",
        **_INVISIBLE,
    )


def _diagonal(sheet: Sheet) -> go.Scatter:
    """The empty cells: hovering over one shows "with itself" and not its neighbour's number."""
    row, column = np.nonzero(np.isnan(sheet.values))
    return go.Scatter(
        x=column, y=row, hovertemplate="<b>%{y}</b><br>with itself<extra></extra>", **_INVISIBLE
    )


def _numbers(sheet: Sheet) -> list[list[str]]:
    return [
        ["" if np.isnan(value) else f"{value:.{sheet.decimals}f}" for value in row] for row in sheet.values
    ]


def _heading(text: str, top: int) -> dict[str, Any]:
    """The line above the colour bar."""
    return {
        "text": _short(text, 48),
        "x": 0,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "top",
        "yshift": top - 2,
        "showarrow": False,
        "font": {"size": 13},
    }


def _colour_bar(sheet: Sheet, height: int) -> dict[str, Any]:
    """A bar above the columns, labelled with values instead of positions on the scale."""
    steps = abs(sheet.high - sheet.low) if sheet.decimals == 0 else 4
    places = np.linspace(0, 1, 1 + int(min(4, max(1, steps))))
    values = sheet.low + places * (sheet.high - sheet.low)
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "xpad": 2,
        "y": 1 - 24 / height,
        "yref": "container",
        "yanchor": "top",
        "ypad": 0,
        "len": 200,
        "lenmode": "pixels",
        "thickness": 12,
        "outlinewidth": 0,
        "tickvals": places,
        "ticktext": [f"{value:.{sheet.decimals}f}" for value in values],
    }


def _right_margin(left: int, columns: Axis) -> int:
    """Pixels on the right: columns with thumbnails stay square even if the colour bar is wider."""
    return max(8, 360 - left - columns.length) if columns.strip else 8


def _row_margin(rows: Axis) -> int:
    return 8 + (96 if rows.labelled else 0) + (min(rows.cell, 48) if rows.strip else 0)


def _column_margin(columns: Axis) -> int:
    bar, strip = 70, columns.cell if columns.strip else 0
    if not columns.labelled:
        return bar + strip
    longest = max((len(name) for name in columns.names), default=0)
    return bar + strip + (56 if columns.wrapped else min(176, 7 * longest + 16))


def _axis(axis: Axis, **more: Any) -> dict[str, Any]:
    """An axis with short names; transparent ticks keep the names off the thumbnails."""
    names = [
        wrap(name, 14, 3) if axis.wrapped else _short(name, 30 if "side" in more else 15)
        for name in axis.names
    ]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "showticklabels": axis.labelled,
        "tickfont": {"size": 11},
        "ticks": "outside",
        "ticklen": 4 + (min(axis.cell, 48) if axis.strip else 0),
        "tickcolor": _TRANSPARENT,
        "range": [-0.5, len(names) - 0.5],
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        **more,
    }


def _full_names(axis: Axis, **more: Any) -> dict[str, Any]:
    """An invisible axis in the same place with the full names, for the hover text."""
    return {
        "tickvals": list(range(len(axis.names))),
        "ticktext": [wrap(name, 60, 12) for name in axis.names],
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "fixedrange": True,
        **more,
    }


def _strip(axis: Axis, *, down: bool) -> dict[str, Any]:
    """The thumbnails of an axis as one picture next to the cells."""
    along = {"y" if down else "x": -0.5, "sizey" if down else "sizex": len(axis.names)}
    across = (
        {"xref": "paper", "yref": "y", "x": 0, "sizex": 1, "xanchor": "right", "yanchor": "top"}
        if down
        else {"xref": "x", "yref": "paper", "y": 1, "sizey": 1, "xanchor": "left", "yanchor": "bottom"}
    )
    return {"source": axis.strip, "sizing": "contain", "layer": "above", **along, **across}


def _short(text: str, room: int) -> str:
    """Escaped text in one line of at most ``room`` letters; wide letters count twice."""
    line, used = "", 0
    for letter in " ".join(text.split()):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used >= room and len(line) + 1 < len(text):
            line += "…"
            break
        line += letter
    return f"\u2068{escape(line, quote=False)}\u2069"  # isolates text that runs right to left
