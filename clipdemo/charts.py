"""Results as Plotly figures; no streamlit here. Every figure states its unit on its axis."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from clipdemo.similarity import FloatArray
from clipdemo.types import Hit

ACCENT = "#2563eb"  # blue on white and on near-black both pass 3:1, and the colour-blind see it
FAINT = "#94a3b8"


def caption_bars(
    hits: Sequence[Hit], captions: Sequence[str], shares: FloatArray | None, unit: str
) -> go.Figure:
    """Captions of one image as horizontal bars, best on top.

    Args:
        hits: best first.
        captions: the text of each ``Hit.index``.
        shares: (n_captions,) probabilities to draw, or None to draw percentiles.
        unit: what the bars measure, for the axis.
    """
    values = [h.whole_percentile if shares is None else 100 * float(shares[h.index]) for h in hits]
    names = [wrapped(captions[hit.index]) for hit in hits]
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
                [wrapped(captions[h.index], 60), f"{h.cosine:.3f}", f"{h.whole_percentile}"] for h in hits
            ],
            hovertemplate="%{customdata[0]}<br>cosine %{customdata[1]}, percentile %{customdata[2]}<extra></extra>",
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
    """Where a cosine lies among those of unrelated pairs under the same checkpoint."""
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


def wrapped(text: str, width: int = 28, lines: int = 2) -> str:
    """Text as Plotly's small HTML, escaped, at most ``lines`` lines of ``width`` characters."""
    words, rows = text.split(), [""]
    for word in words:
        piece = word if len(word) <= width else word[: width - 1] + "…"
        if rows[-1] and len(rows[-1]) + 1 + len(piece) > width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {piece}".strip()
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1][: width - 1] + "…"]
    # Plotly knows no &quot;, and a quotation mark does no harm between its tags.
    return "<br>".join(escape(row, quote=False) for row in rows)
