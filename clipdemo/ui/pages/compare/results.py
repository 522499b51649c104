"""The result of a comparison: rankings side by side, agreement, disputes, costs and downloads."""

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
from clipdemo.ui.pages.compare import job as comparison_job
from clipdemo.ui.pages.compare.job import Entrant
from clipdemo.ui.state import Engine, View
from clipdemo.ui.views import Download, show_download, show_downloads

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
    """The workspace under one checkpoint."""

    title: str
    encoder: CachedEncoder
    matrix: ScoreMatrix


@dataclass(frozen=True, eq=False)
class Results:
    """What the page shows.

    Attributes:
        titles: of the compared checkpoints.
        caption: index of the caption chosen.
        k: cut-off of the rankings shown.
    """

    comparison: Comparison
    titles: list[str]
    caption: int
    k: int


def show(sides: Sequence[Side], entrants: Sequence[Entrant], view: View) -> Results | None:
    """Rankings, chart, agreement and disputes of the scored checkpoints; None before there is one."""
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
    if len(sides) < comparison_job.FEWEST:
        st.caption("Agreement is shown once two models are ready.")
        return results
    _bump(results)
    _disputes(results)
    _agreement(results)
    return results


def _rankings(results: Results, entrants: Sequence[Entrant]) -> None:
    """One column per checkpoint; an unfinished one has a skeleton."""
    st.subheader(f"“{views.plain(_caption(results))}”", anchor=False)
    # Two stay side by side on a phone; more would be too narrow there.
    columns = st.columns(len(entrants), gap="medium", wrap=len(entrants) > 2)
    for place, (column, entrant) in enumerate(zip(columns, entrants, strict=True)):
        with column:
            st.markdown(f"**{views.plain(entrant.title, 60)}**")
            if entrant.title not in results.titles:
                if not entrant.reason:
                    st.skeleton(height=160)
                continue
            side = results.titles.index(entrant.title)
            ranks = results.comparison.ranks[:, :, results.caption]
            with st.grid("auto", min_column_width=132, gap="small", key=f"grid-compare-{place}") as grid:
                for image in ranks[side].argsort()[: results.k].tolist():
                    with grid.cell():
                        _tile(results, image, ranks[:, image].tolist(), side)


def _tile(results: Results, image: int, ranks: list[int], own: int) -> None:
    """An image with its rank under this checkpoint, the one numbered ``own``, and under the others."""
    item = results.comparison.matrices[0].images[image]
    others = [
        f"{views.plain(title, 24)}: {ordinal(rank)}"
        for n, (title, rank) in enumerate(zip(results.titles, ranks, strict=True))
        if n != own
    ]
    st.image(
        item.thumbnail,
        caption="  \n".join([f"**{ranks[own]}**&ensp;{views.plain(item.name, 20)}", *others]),
        alt=f"{ordinal(ranks[own])} under {results.titles[own]}: {item.name[:100]}",
        width="stretch",
    )


def _bump(results: Results) -> None:
    st.subheader("How ranks change", anchor=False)
    shown = results.comparison.contenders(results.caption, results.k)
    ranks = results.comparison.ranks[:, shown, results.caption]
    images = results.comparison.matrices[0].images
    everywhere = int((ranks <= results.k).all(axis=0).sum())
    st.plotly_chart(
        charts.bump_chart(ranks, results.titles, [images[n].name for n in shown], results.k),
        key="compare-bump",
        config={"displayModeBar": False, "typesetMath": False},
        alt=f"Ranks of {len(shown)} images under {', '.join(results.titles)}: {everywhere} of them are "
        f"among the first {results.k} everywhere",
    )
    st.caption(
        f"Each line is an image that at least one model ranks among its first {results.k} (the shaded "
        f"band). Solid blue: under every model ({everywhere} of {len(shown)}). Dotted orange: under some "
        "only. Hover over a line for its ranks."
    )


def _disputes(results: Results) -> None:
    st.subheader("Where they disagree most", anchor=False)
    every = len(results.comparison.matrices[0].captions) > 1 and st.toggle(
        "Over all captions", key="compare-every", persist_state="session"
    )
    disputes = results.comparison.disputes(DISPUTES, None if every else results.caption)
    if not disputes:
        st.caption("Nowhere: all models rank all images alike.")
        return
    with st.grid("auto", min_column_width=130, gap="small", key="grid-compare-disputes") as grid:
        for dispute in disputes:
            with grid.cell():
                _dispute(results, dispute, named=bool(every))
    st.caption(
        "The images with the largest difference between best and worst rank; differences far down mean "
        "little."
    )


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
        "1 is the same order, 0 unrelated, −1 the reverse; a dash where a model scores all images equally. "
        "Agreement is not quality: two models may agree and both be wrong."
    )


def _line(results: Results, found: Agreement, overlap: str) -> dict[str, object]:
    return {
        "models": f"{results.titles[found.first]} and {results.titles[found.second]}",
        "Spearman": found.spearman,
        "Kendall": found.kendall,
        overlap: None if found.overlap is None else 100 * found.overlap,
    }


def costs(engine: Engine, entrants: Sequence[Entrant]) -> dict[str, Cost]:
    """The measured cost of each checkpoint, by title, as far as it is known."""
    st.subheader("What they cost on this machine", anchor=False)
    known = {each.title: cost for each in entrants if (cost := comparison_job.cost(engine, each))}
    if not known:
        st.caption("Measured once a model is loaded.")
        return known
    config = {
        name: st.column_config.NumberColumn(name, help=tables.COSTS[name], format=form)
        for name, form in COST_FORMATS.items()
    }
    rows = [tables.cost_row(title, cost) for title, cost in known.items()]
    alt = "Cost of each model on this machine"
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config, placeholder="–", alt=alt)
    waiting = [title for title, cost in known.items() if cost.speed is None]
    left = f" Not measured yet: {views.plain(', '.join(waiting))}." if waiting else ""
    st.caption(tables.cost_sentence() + left)
    with st.container(horizontal=True):
        show_download(
            Download("Costs (CSV)", "costs.csv", "text/csv", lambda: tables.costs_csv(known), "table")
        )
        if st.button("Measure again", disabled=bool(waiting), icon=":material/timer:"):
            for cost in known.values():
                engine.stopwatch.forget(cost.checkpoint)
            st.rerun()
    return known


def downloads(results: Results, details: ReportDetails) -> None:
    """Files to take away."""
    comparison, titles, k = results.comparison, results.titles, results.k
    show_downloads(
        [
            Download(
                "Report (HTML)",
                "comparison.html",
                "text/html",
                lambda: compare_report.comparison_html(comparison, titles, details, k).encode(),
                "description",
            ),
            Download(
                "Ranks (CSV)",
                "ranks.csv",
                "text/csv",
                lambda: tables.ranks_csv(comparison, titles, details.templates),
                "table",
            ),
        ]
    )


def _caption(results: Results) -> str:
    return results.comparison.matrices[0].captions[results.caption]
