"""The Compare page: two to four checkpoints on the same images and captions, side by side."""

from __future__ import annotations

import streamlit as st

from clipdemo.compare.report import WHY_RANKS, ReportDetails
from clipdemo.errors import ClipdemoError
from clipdemo.limits import format_bytes
from clipdemo.models import load
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.score import prompts_of, score_matrix
from clipdemo.ui import picker, views
from clipdemo.ui.pages.compare import job as comparison
from clipdemo.ui.pages.compare import results as compare_results
from clipdemo.ui.pages.compare import truth as ground_truth
from clipdemo.ui.pages.compare.job import FEWEST, MOST, ComparisonJob, Entrant, Task
from clipdemo.ui.pages.compare.results import Side
from clipdemo.ui.state import Engine, View

# Each look runs the script; more of them would take the processor from the checkpoint that is loading.
LOOK_SECONDS = 3.0


def show(view: View, engine: Engine) -> None:
    """The whole page, from what can be scored now."""
    st.title("Which model sees it your way?", anchor=False)
    names = _pick(view, engine)
    st.caption(WHY_RANKS)
    if len(names) < FEWEST:
        _too_few(engine)
        return
    if not view.items or not view.captions:
        what = "images" if not view.items else "captions"
        st.info(f"No {what} yet. Add some in the sidebar.", icon=":material/edit:")
        return
    queries = [Query.parse(caption) for caption in view.captions]
    prompts = prompts_of(queries, view.templates)
    task = Task(names, view.items, tuple(prompts))
    entrants = comparison.look(engine, task)
    _states(engine, task)
    sides = _scored(entrants, view)
    results = compare_results.show(sides, entrants, view)
    truth = ground_truth.choose(view, engine)
    recalls = ground_truth.recalls(sides, truth, view)
    costs = compare_results.costs(engine, entrants)
    if results:
        compare_results.downloads(results, ReportDetails(view.templates, costs, recalls, truth))
    more = truth.prompts(view.templates) if truth else []
    whole = Task(names, view.items, tuple(dict.fromkeys([*prompts, *more])))
    view.hand_over(ComparisonJob(engine, whole))


def _pick(view: View, engine: Engine) -> tuple[str, ...]:
    """The checkpoints to compare; kept across pages, and in the link by their public names."""
    state, options = st.session_state, picker.options(engine)
    if "compare" not in state:
        local = comparison.available(engine, options)  # a link never makes the server download a checkpoint
        by_link = {load.public_id(name): name for name in local}
        asked = list(dict.fromkeys(st.query_params.get_all("compare")))
        linked = [by_link[each] for each in asked if each in by_link]
        state["compare"] = linked[:MOST] or comparison.first_choice(engine, view.checkpoint, options)
        state["compare-link"] = [each for each in asked if each not in by_link]
    elif any(name not in options for name in state["compare"]):
        state["compare"] = [name for name in state["compare"] if name in options]
    title_of = dict(zip(options, comparison.titles(options), strict=True))
    names = st.multiselect(
        "Models",
        options,
        key="compare",
        format_func=lambda name: title_of.get(name, ""),
        max_selections=MOST,
        placeholder="Choose two to four models",
        persist_state="session",
    )
    for each in state.get("compare-link", [])[:MOST]:
        st.caption(
            f":orange[The link asked for {views.plain(each, 60)}, which is not available here; choose from "
            "the list.]"
        )
    st.query_params["compare"] = [load.public_id(name) for name in names]
    return tuple(names)


def _too_few(engine: Engine) -> None:
    if len(picker.options(engine)) < FEWEST:
        st.info(
            "This server offers one model only, so there is nothing to compare it with. "
            "Its host can name another one in CLIPDEMO_CHECKPOINT.",
            icon=":material/info:",
        )
    else:
        st.info("Choose two models above, or up to four.", icon=":material/compare_arrows:")


def _states(engine: Engine, task: Task) -> None:
    """What each unfinished model is doing; refreshes itself until all are settled."""

    def shape() -> list[tuple[str, bool]]:
        return [(each.status.state, each.encoder is None) for each in comparison.look(engine, task)]

    before = shape()
    changing = not all(comparison.settled(engine, each) for each in comparison.look(engine, task))

    @st.fragment(run_every=LOOK_SECONDS if changing else None)
    def states() -> None:
        for entrant in comparison.look(engine, task):
            _state(engine, entrant, task)
        if shape() != before:
            st.rerun()

    states()


def _state(engine: Engine, entrant: Entrant, task: Task) -> None:
    title = views.plain(entrant.title)
    if entrant.complete and (comparison.timed(engine, entrant) or not entrant.reason):
        return
    if entrant.reason:
        cannot = "be measured" if entrant.complete else "be compared"
        st.caption(
            f":orange[:material/error: **{title}** cannot {cannot}:] {views.plain(entrant.reason, 400)}"
        )
        if st.button(f"Try {title} again", key=f"compare-retry-{entrant.name}"):
            comparison.try_again(engine, entrant.name)
            st.rerun()
    elif entrant.status.state == "downloading" and entrant.status.progress:
        done, total = entrant.status.progress.done, max(entrant.status.progress.total, 1)
        text = f"**{title}** downloading: {format_bytes(done)} of {format_bytes(total)}"
        st.progress(min(done / total, 1.0), text)
    elif entrant.status.state == "waiting":
        text = f"**{title}** waits for memory: {views.plain(entrant.status.reason, 300)}."
        st.caption(f":material/hourglass_top: {text}")
    elif entrant.encoder is None:
        doing = "loading" if entrant.status.busy else "waiting for its turn"
        st.caption(f":material/hourglass_top: **{title}** {doing} …")
    else:
        done_so_far = comparison.encoded_text(task, entrant)
        st.caption(f":material/hourglass_top: **{title}** encoding: {done_so_far}")


def _scored(entrants: list[Entrant], view: View) -> list[Side]:
    """The workspace under each complete checkpoint; shows the reason where scoring fails."""
    sides = []
    for entrant in entrants:
        if not entrant.complete or entrant.encoder is None:
            continue
        try:
            matrix = score_matrix(entrant.encoder, view.items, view.captions, templates=view.templates)
        except ClipdemoError as error:  # such as a weighted caption that cancels out under this checkpoint
            st.caption(f":orange[**{views.plain(entrant.title)}**: {views.plain(str(error), 300)}]")
            continue
        sides.append(Side(entrant.title, entrant.encoder, matrix))
    return sides
