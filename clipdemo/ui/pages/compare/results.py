"""What a comparison says: rankings side by side, agreement, disputes, recall, cost, and files to take away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from clipdemo.compare import ranks as compare
from clipdemo.compare import report as compare_report
from clipdemo.compare import tables
from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import Agreement, Comparison, Dispute, ordinal
from clipdemo.compare.report import ReportDetails
from clipdemo.compare.tables import MEANINGS
from clipdemo.models.cache import CachedEncoder
from clipdemo.output import charts
from clipdemo.types import ScoreMatrix
from clipdemo.ui import views
from clipdemo.ui.pages.compare import job as comparing
from clipdemo.ui.pages.compare.job import Entrant
from clipdemo.ui.state import Engine, View

FIRST = [3, 5, 10]
DISPUTES = 6
COST_FORMATS = {
    "load, s": "%.1f",
    "ms an image": "%.1f",
    "ms a caption": "%.1f",
    "memory, MB": "%.0f",
    "parameters, M": "%.1f",
    "embedding": "%d",
    "input, px": "%d",
    "download, MB": "%.0f",
}


@dataclass(frozen=True, eq=False)
class Side:
    """The workspace under one checkpoint.

    Attributes:
        title: what people read.
        encoder: what encoded it.
        matrix: every image against every caption.
    """

    title: str
    encoder: CachedEncoder
    matrix: ScoreMatrix


@dataclass(frozen=True, eq=False)
class Results:
    """What is on the page.

    Attributes:
        comparison: of the sides.
        titles: of its checkpoints.
        caption: position of the caption chosen.
        k: how many images count as first.
    """

    comparison: Comparison
    titles: list[str]
    caption: int
    k: int


def show(sides: Sequence[Side], entrants: Sequence[Entrant], view: View) -> Results | None:
    """Rankings, chart, agreement and disputes of what is scored; None before anything is."""
    if not sides:
        st.skeleton(height=240)
        return None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        caption = st.selectbox("Caption", view.captions, key="compare-caption", persist_state="session")
        k = st.selectbox("Images a model", FIRST, index=1, key="compare-k", persist_state="session")
    titles = [side.title for side in sides]
    comparison = compare.compare_matrices([side.matrix for side in sides])
    at = view.captions.index(caption) if caption in view.captions else 0
    results = Results(comparison, titles, at, min(k, len(view.items)))
    _rankings(results, entrants)
    if len(sides) < comparing.FEWEST:
        st.caption("Agreement is shown once two models are ready.")
        return results
    _bump(results)
    _disputes(results)
    _agreement(results)
    return results


def _rankings(results: Results, entrants: Sequence[Entrant]) -> None:
    """One column a checkpoint; one that is on its way keeps its place."""
    st.subheader(f"“{views.plain(_caption(results))}”", anchor=False)
    # Two stay side by side on a phone; more would be too narrow there.
    columns = st.columns(len(entrants), gap="medium", wrap=len(entrants) > 2)
    for place, (column, entrant) in enumerate(zip(columns, entrants, strict=True)):
        with column:
            st.markdown(f"**{views.plain(entrant.title, 60)}**")
            if entrant.title not in results.titles:
                _ = None if entrant.reason else st.skeleton(height=160)
                continue
            side = results.titles.index(entrant.title)
            ranks = results.comparison.ranks[:, :, results.caption]
            with st.grid("auto", min_column_width=132, gap="small", key=f"grid-compare-{place}") as grid:
                for image in ranks[side].argsort()[: results.k].tolist():
                    with grid.cell():
                        _tile(results, image, ranks[:, image].tolist(), side)


def _tile(results: Results, image: int, places: list[int], own: int) -> None:
    item = results.comparison.matrices[0].images[image]
    others = [
        f"{views.plain(title, 24)}: {ordinal(place)}"
        for n, (title, place) in enumerate(zip(results.titles, places, strict=True))
        if n != own
    ]
    st.image(
        item.thumbnail,
        caption="  \n".join([f"**{places[own]}**&ensp;{views.plain(item.name, 20)}", *others]),
        alt=f"{ordinal(places[own])} under {results.titles[own]}: {item.name[:100]}",
        width="stretch",
    )


def _bump(results: Results) -> None:
    st.subheader("How places change", anchor=False)
    shown = results.comparison.contenders(results.caption, results.k)
    ranks = results.comparison.ranks[:, shown, results.caption]
    images = results.comparison.matrices[0].images
    everywhere = int((ranks <= results.k).all(axis=0).sum())
    st.plotly_chart(
        charts.bump_chart(ranks, results.titles, [images[n].name for n in shown], results.k),
        key="compare-bump",
        config={"displayModeBar": False, "typesetMath": False},
        alt=f"Ranks of {len(shown)} images under {', '.join(results.titles)}: {everywhere} of them are among the "
        f"first {results.k} everywhere",
    )
    st.caption(
        f"Each line is an image that some model puts among its first {results.k} (the shaded band). Solid blue: under "
        f"every model ({everywhere} of {len(shown)}). Dotted orange: under some only. Point at a line for its places."
    )


def _disputes(results: Results) -> None:
    st.subheader("Where they disagree most", anchor=False)
    every = len(results.comparison.matrices[0].captions) > 1 and st.toggle(
        "Over all captions", key="compare-every", persist_state="session"
    )
    disputes = results.comparison.disputes(DISPUTES, None if every else results.caption)
    if not disputes:
        st.caption("Nowhere: every model puts every image in the same place.")
        return
    with st.grid("auto", min_column_width=130, gap="small", key="grid-compare-disputes") as grid:
        for dispute in disputes:
            with grid.cell():
                _dispute(results, dispute, named=bool(every))
    st.caption("The images whose best and worst place lie furthest apart; differences far down mean little.")


def _dispute(results: Results, dispute: Dispute, *, named: bool) -> None:
    matrix = results.comparison.matrices[0]
    item = matrix.images[dispute.image]
    lines = [f"**{views.plain(item.name, 24)}**"]
    lines += [f"“{views.plain(matrix.captions[dispute.caption], 40)}”"] if named else []
    places = list(zip(results.titles, dispute.ranks, strict=True))
    lines += [f"{views.plain(title, 24)}: **{ordinal(place)}**" for title, place in places]
    words = ", ".join(f"{ordinal(place)} under {title}" for title, place in places)
    st.image(item.thumbnail, caption="  \n".join(lines), alt=f"{item.name[:100]}: {words}", width="stretch")


def _agreement(results: Results) -> None:
    st.subheader("How far they agree", anchor=False)
    count = len(results.comparison.matrices[0].captions)
    overlap = f"same in first {results.k}"
    rows = [
        {"over": "this caption", **_line(results, found, overlap)}
        for found in results.comparison.agreement(results.caption, results.k)
    ]
    if count > 1:
        rows += [
            {"over": f"mean of {count} captions", **_line(results, found, overlap)}
            for found in results.comparison.mean_agreement(results.k)
        ]
    number = st.column_config.NumberColumn
    columns = {
        "Spearman": number("Spearman", help=MEANINGS["Spearman"], format="%.2f"),
        "Kendall": number("Kendall", help=MEANINGS["Kendall"], format="%.2f"),
        overlap: number(overlap, help=MEANINGS["overlap"], format="%.0f %%"),
    }
    order = ["models", "Spearman", "Kendall", overlap, "over"]  # a phone shows the first ones
    table = pd.DataFrame(rows)[order]
    st.dataframe(
        table,
        hide_index=True,
        column_config=columns,
        placeholder="–",
        alt="Agreement of each pair of models",
    )
    st.caption(
        "1 is the same order, 0 no relation, −1 the reverse; a dash where a model puts all images level. "
        "Agreement is not quality: two models may agree and both be wrong."
    )


def _line(results: Results, found: Agreement, overlap: str) -> dict[str, object]:
    return {
        "models": f"{results.titles[found.first]} and {results.titles[found.second]}",
        "Spearman": found.spearman,
        "Kendall": found.kendall,
        overlap: None if found.overlap is None else 100 * found.overlap,
    }


def costs(shared: Engine, entrants: Sequence[Entrant]) -> dict[str, Cost]:
    """What each checkpoint costs, measured here: title -> cost, as far as it is known."""
    st.subheader("What they cost on this machine", anchor=False)
    known = {each.title: cost for each in entrants if (cost := comparing.cost(shared, each))}
    if not known:
        st.caption("Measured as soon as a model is loaded.")
        return known
    config = {
        name: st.column_config.NumberColumn(name, help=tables.COSTS[name], format=form)
        for name, form in COST_FORMATS.items()
    }
    rows = [tables.cost_row(title, cost) for title, cost in known.items()]
    alt = "Cost of each model on this machine"
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config, placeholder="–", alt=alt)
    waiting = [title for title, cost in known.items() if cost.speed is None]
    left = f" Still to be measured: {views.plain(', '.join(waiting))}." if waiting else ""
    st.caption(tables.cost_sentence() + left)
    with st.container(horizontal=True):
        st.download_button(
            "Costs (CSV)",
            lambda: tables.costs_csv(known),
            "costs.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/table:",
        )
        if st.button("Measure again", disabled=bool(waiting), icon=":material/timer:"):
            for cost in known.values():
                shared.stopwatch.forget(cost.checkpoint)
            st.rerun()
    return known


def downloads(results: Results, facts: ReportDetails) -> None:
    """The comparison in one file, made only when asked for."""
    comparison, titles, k = results.comparison, results.titles, results.k
    with st.container(horizontal=True):
        st.download_button(
            "Report (HTML)",
            lambda: compare_report.comparison_html(comparison, titles, facts, k).encode(),
            "comparison.html",
            "text/html",
            on_click="ignore",
            icon=":material/description:",
        )
        st.download_button(
            "Ranks (CSV)",
            lambda: tables.ranks_csv(comparison, titles, facts.templates),
            "ranks.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/table:",
        )


def _caption(results: Results) -> str:
    return results.comparison.matrices[0].captions[results.caption]
