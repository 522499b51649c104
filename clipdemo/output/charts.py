"""Results as Plotly figures, each with its unit on an axis; must not import streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import Hit

ACCENT = "#2563eb"  # contrast above 3:1 on white and on near-black
FAINT = "#94a3b8"
ORANGE = "#d97706"  # colour-blind people can tell it from the blue; dots and diamonds repeat it
LINEAR_UP_TO = 30  # ranks; a longer axis is logarithmic
HEAD, LINE_HEIGHT, LOG_HEIGHT = 72, 24, 480  # pixels of a bump chart


def caption_bars(
    hits: Sequence[Hit], captions: Sequence[str], shares: FloatArray | None, unit: str
) -> go.Figure:
    """The captions of one image as horizontal bars, best on top.

    Args:
        hits: best first.
        captions: the text of each ``Hit.index``.
        shares: (n_captions,) probabilities to draw, or None to draw percentiles.
        unit: of the bars, for the axis.
    """
    values = [h.whole_percentile if shares is None else 100 * float(shares[h.index]) for h in hits]
    names = [wrap(captions[hit.index]) for hit in hits]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=[f"{hit.rank}" for hit in hits],
            orientation="h",
            marker_color=[ACCENT if hit.rank == 1 else FAINT for hit in hits],
            text=[f"{value:.1f} %" if shares is not None else f"{value:.0f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            customdata=[
                [wrap(captions[h.index], 60), f"{h.cosine:.3f}", f"{h.whole_percentile}"] for h in hits
            ],
            hovertemplate="%{customdata[0]}<br>"
            "cosine %{customdata[1]}, percentile %{customdata[2]}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis={"title": unit, "range": [0, 112], "tickvals": [0, 25, 50, 75, 100], "fixedrange": True},
        yaxis={
            "autorange": "reversed",
            "tickvals": [f"{hit.rank}" for hit in hits],
            "ticktext": names,
            "type": "category",
            "fixedrange": True,
            "automargin": True,
        },
        height=110 + (44 if len(hits) <= 12 else 30) * len(hits),
        margin={"l": 8, "r": 8, "t": 8, "b": 48},
        showlegend=False,
    )
    return figure


def background_histogram(cosine: float, background: FloatArray) -> go.Figure:
    """A cosine among the cosines of unrelated pairs under the same checkpoint."""
    low = min(float(background.min()), cosine) - 0.02
    high = max(float(background.max()), cosine) + 0.02
    counts, edges = np.histogram(background, bins=40, range=(low, high))
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            marker_color=FAINT,
            hovertemplate="%{y} unrelated pairs near %{x:.2f}<extra></extra>",
        )
    )
    figure.add_vline(x=cosine, line_color=ACCENT, line_width=3)
    figure.add_annotation(x=cosine, y=1.0, yref="paper", yanchor="bottom", text="this pair", showarrow=False)
    figure.update_layout(
        xaxis={"title": "cosine of unrelated pairs", "fixedrange": True},
        yaxis={"title": "pairs", "fixedrange": True},
        height=210,
        margin={"l": 8, "r": 8, "t": 24, "b": 8},
        bargap=0.05,
        showlegend=False,
    )
    return figure


def wrap(text: str, width: int = 28, lines: int = 2) -> str:
    """Escaped text for Plotly labels, of at most ``lines`` lines of ``width`` characters."""
    words, rows = text.split(), [""]
    for word in words:
        piece = word if len(word) <= width else word[: width - 1] + "…"
        if rows[-1] and len(rows[-1]) + 1 + len(piece) > width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {piece}".strip()
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1][: width - 1] + "…"]
    # Plotly would show &quot; as it is; a quotation mark between tags is harmless.
    return "<br>".join(escape(row, quote=False) for row in rows)


def bump_chart(ranks: IntArray, checkpoints: Sequence[str], names: Sequence[str], k: int) -> go.Figure:
    """How the ranks of images change between checkpoints: one line for each image, best rank on top.

    A solid line stays among the first k under every checkpoint; a dotted one does not.

    Args:
        ranks: (n_checkpoints, n_images) 1-based ranks of the drawn images, which may be a part of all images.
        checkpoints: titles, left to right.
        names: of the drawn images; untrusted.
        k: number of ranks in the shaded band.
    """
    deepest = int(ranks.max(initial=1))
    logarithmic = deepest > LINEAR_UP_TO  # keeps the first ranks apart, however far an image drops
    columns = [wrap(name, 16) for name in checkpoints]
    figure = go.Figure()
    for image in np.argsort(-ranks.min(axis=0), kind="stable"):  # draws the best last, on top
        everywhere = bool((ranks[:, image] <= k).all())
        colour = ACCENT if everywhere else ORANGE
        lines = [f"{column}: {rank}" for column, rank in zip(columns, ranks[:, image], strict=True)]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(columns))),
                y=ranks[:, image].tolist(),
                mode="lines+markers",
                line={"color": colour, "width": 3, "dash": "solid" if everywhere else "dot"},
                marker={"size": 11, "symbol": "circle" if everywhere else "diamond", "color": colour},
                hovertemplate=f"<b>{wrap(names[image], 40)}</b><br>{'<br>'.join(lines)}<extra></extra>",
                cliponaxis=False,
            )
        )
    _name_lines(figure, ranks[-1], names, logarithmic=logarithmic)
    bottom, top = (float(np.log10(end)) if logarithmic else end for end in (deepest + 0.6, 0.55))
    figure.add_hrect(y0=0.55, y1=k + 0.5, fillcolor=FAINT, opacity=0.18, line_width=0, layer="below")
    steps = [n for n in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000) if n <= deepest]
    figure.update_layout(
        xaxis={
            "tickvals": list(range(len(columns))),
            "ticktext": columns,
            "range": [-0.12, len(columns) - 0.9],
            "side": "top",
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": "rank" + (", logarithmic" if logarithmic else ""),
            "type": "log" if logarithmic else "linear",
            "range": [bottom, top],
            "tickvals": steps if logarithmic or deepest > 12 else list(range(1, deepest + 1)),
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
        },
        height=HEAD + (LOG_HEIGHT if logarithmic else LINE_HEIGHT * max(4, deepest)),
        margin={"l": 8, "r": 118, "t": 48, "b": 8},
        showlegend=False,
    )
    return figure


def _name_lines(figure: go.Figure, last: IntArray, names: Sequence[str], *, logarithmic: bool) -> None:
    """Write each image's name next to the end of its line, unless it would overlap another name."""
    free_from = 0.0  # pixels from the top
    for image in np.argsort(last, kind="stable"):
        rank = float(last[image])
        height = LOG_HEIGHT / 2.5 * np.log10(rank) if logarithmic else LINE_HEIGHT * rank
        if height >= free_from:
            figure.add_annotation(
                x=figure.data[0].x[-1],
                y=np.log10(rank) if logarithmic else rank,
                text=wrap(names[image], 16, 1),
                xanchor="left",
                xshift=12,
                showarrow=False,
                align="left",
            )
            free_from = height + 15
