"""The Compare page: two to four checkpoints over the same workspace, side by side."""

from __future__ import annotations

import streamlit as st

from clipdemo.compare.report import WHY_RANKS, ReportDetails
from clipdemo.errors import ClipdemoError
from clipdemo.limits import MEGABYTE
from clipdemo.models import load
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.score import prompts_of, score_matrix
from clipdemo.ui import picker, views
from clipdemo.ui.pages.compare import job as comparing
from clipdemo.ui.pages.compare import results as compare_results
from clipdemo.ui.pages.compare import truth as compare_truth
from clipdemo.ui.pages.compare.job import FEWEST, MOST, Entrant, Task
from clipdemo.ui.pages.compare.results import Side
from clipdemo.ui.state import Engine, View

# Streamlit collects garbage after every run; looking oftener would take the processor from what is being loaded.
LOOK_SECONDS = 3.0


def show(view: View, shared: Engine) -> None:
    """The whole page, from what can be scored now."""
    st.title("Which model sees it your way?", anchor=False)
    names = _pick(view, shared)
    st.caption(WHY_RANKS)
    if len(names) < FEWEST:
        _too_few(shared)
        return
    if not view.items or not view.captions:
        what = "images" if not view.items else "captions"
        st.info(f"No {what} yet. Add some in the sidebar.", icon=":material/edit:")
        return
    queries = [Query.parse(caption) for caption in view.captions]
    prompts = prompts_of(queries, view.templates)
    task = Task(names, view.items, tuple(prompts))
    entrants = comparing.look(shared, task)
    _states(shared, task)
    sides = _scored(entrants, view)
    results = compare_results.show(sides, entrants, view)
    asked = compare_truth.choose(view, shared)
    recalls = compare_truth.recalls(sides, asked, view)
    known = compare_results.costs(shared, entrants)
    if results:
        compare_results.downloads(results, ReportDetails(view.templates, known, recalls, asked))
    more = asked.prompts(view.templates) if asked else []
    comparing.want(Task(names, view.items, tuple(dict.fromkeys([*prompts, *more]))))


def _pick(view: View, shared: Engine) -> tuple[str, ...]:
    """The checkpoints to compare; kept from page to page, and in the link by their public names."""
    state, options = st.session_state, picker.options(shared)
    if "compare" not in state:
        here = comparing.here(shared, options)  # a link never makes the server download a checkpoint
        by_link = {load.public_id(name): name for name in here}
        asked = list(dict.fromkeys(st.query_params.get_all("compare")))
        linked = [by_link[each] for each in asked if each in by_link]
        state["compare"] = linked[:MOST] or comparing.first_choice(shared, view.checkpoint, options)
        state["compare-link"] = [each for each in asked if each not in by_link]
    elif any(name not in options for name in state["compare"]):
        state["compare"] = [name for name in state["compare"] if name in options]
    title_of = dict(zip(options, comparing.titles(options), strict=True))
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
            f":orange[The link asked for {views.plain(each, 60)}, which is not here; choose from the list.]"
        )
    st.query_params["compare"] = [load.public_id(name) for name in names]
    return tuple(names)


def _too_few(shared: Engine) -> None:
    if len(picker.options(shared)) < FEWEST:
        st.info(
            "This server offers one model only, so there is nothing to compare it with. "
            "Its host can name another one in CLIPDEMO_CHECKPOINT.",
            icon=":material/info:",
        )
    else:
        st.info("Choose two models above, or up to four.", icon=":material/compare_arrows:")


def _states(shared: Engine, task: Task) -> None:
    """What each model that is not there yet is doing; looks again by itself as long as one is on its way."""

    def shape() -> list[tuple[str, bool]]:
        return [(each.status.state, each.encoder is None) for each in comparing.look(shared, task)]

    before = shape()
    moving = not all(comparing.settled(shared, each) for each in comparing.look(shared, task))

    @st.fragment(run_every=LOOK_SECONDS if moving else None)
    def states() -> None:
        for entrant in comparing.look(shared, task):
            _state(shared, entrant, task)
        if shape() != before:
            st.rerun()

    states()


def _state(shared: Engine, entrant: Entrant, task: Task) -> None:
    title = views.plain(entrant.title)
    if entrant.complete and (comparing.timed(shared, entrant) or not entrant.reason):
        return
    if entrant.reason:
        cannot = "be measured" if entrant.complete else "be compared"
        st.caption(
            f":orange[:material/error: **{title}** cannot {cannot}:] {views.plain(entrant.reason, 400)}"
        )
        if st.button(f"Try {title} again", key=f"compare-retry-{entrant.name}"):
            comparing.try_again(shared, entrant.name)
            st.rerun()
    elif entrant.status.state == "downloading" and entrant.status.progress:
        done, total = entrant.status.progress.done, max(entrant.status.progress.total, 1)
        words = f"**{title}** downloading: {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB"
        st.progress(min(done / total, 1.0), words)
    elif entrant.status.state == "waiting":
        words = f"**{title}** waits for memory: {views.plain(entrant.status.reason, 300)}."
        st.caption(f":material/hourglass_top: {words}")
    elif entrant.encoder is None:
        doing = "loading" if entrant.status.busy else "waiting for its turn"
        st.caption(f":material/hourglass_top: **{title}** {doing} …")
    else:
        done_so_far = comparing.progress(task, entrant.images, entrant.prompts)
        st.caption(f":material/hourglass_top: **{title}** encoding: {done_so_far}")


def _scored(entrants: list[Entrant], view: View) -> list[Side]:
    """The workspace under each checkpoint that is complete; one that cannot be scored is set aside with its reason."""
    sides = []
    for entrant in entrants:
        if not entrant.complete or entrant.encoder is None:
            continue
        try:
            matrix = score_matrix(entrant.encoder, view.items, view.captions, templates=view.templates)
        except (
            ClipdemoError
        ) as error:  # a weighted caption that cancels out under this checkpoint alone, for one
            st.caption(f":orange[**{views.plain(entrant.title)}**: {views.plain(str(error), 300)}]")
            continue
        sides.append(Side(entrant.title, entrant.encoder, matrix))
    return sides
