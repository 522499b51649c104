"""The checkpoint picker in the sidebar; ``models.choices`` checks typed names and links."""

from __future__ import annotations

import streamlit as st

from clipdemo.errors import CheckpointNotFoundError
from clipdemo.models import choices, load
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.models.clip.families import family_names
from clipdemo.ui import views
from clipdemo.ui.state import Engine, first_checkpoint


def options(engine: Engine) -> list[str]:
    """The checkpoints this session can choose: those the host offers, then those its visitor typed."""
    typed: list[str] = st.session_state.setdefault("typed-checkpoints", [])
    return list(dict.fromkeys([*choices.offered(engine.preferred), *typed]))


def label(engine: Engine, name: str) -> str:
    """A checkpoint's title, and whether it must be downloaded or failed."""
    return choices.label(name, failed=engine.loader.status(name).state == "failed")


def choose(engine: Engine) -> str:
    """Show the picker, with refused input and what a link asks for; returns the chosen checkpoint."""
    state = st.session_state
    _resolve(engine)
    if engine.loader.status(state["checkpoint"]).state == "failed":
        state["fallen"], state["checkpoint"] = state["checkpoint"], EMBEDDED
    state["last-checkpoint"] = state["checkpoint"]
    offered = options(engine)
    labels = {name: label(engine, name) for name in offered}

    def changed() -> None:
        state["refused"] = ""
        if engine.loader.status(state["checkpoint"]).state == "failed":
            engine.loader.start(state["checkpoint"])

    free = engine.limits.typed != "none"
    chosen = st.selectbox(
        "Checkpoint",
        offered,
        key="checkpoint",
        format_func=lambda name: labels.get(name, name),
        help=_help(engine),
        on_change=changed,
        accept_new_options=free,
    )
    if state.get("refused"):
        st.caption(f":orange[Not accepted:] {views.plain(state['refused'], 300)}")
    _show_link(engine)
    chosen = chosen or EMBEDDED
    st.query_params["checkpoint"] = load.public_id(chosen)
    return chosen


def _resolve(engine: Engine) -> None:
    """Make ``state["checkpoint"]`` one of the options: check typed names; a new session follows its link.

    It is set in every run: the browser identifies a checkpoint by its label, which changes when a download
    ends.
    """
    state = st.session_state
    chosen = state.get("checkpoint")
    if chosen is None and "last-checkpoint" not in state:
        state["checkpoint"] = _linked(engine)
        return
    last: str = state["last-checkpoint"]
    try:
        state["checkpoint"] = choices.resolve(chosen or last, options(engine), engine.limits.typed)
    except CheckpointNotFoundError as error:
        state["refused"], state["checkpoint"] = str(error), last
    _remember(engine, state["checkpoint"])


def _linked(engine: Engine) -> str:
    """The checkpoint in the address bar if it needs no download; else the default for new sessions."""
    state, asked = st.session_state, st.query_params.get("checkpoint", "")
    if not asked:
        return first_checkpoint(engine)
    try:
        name = choices.resolve(asked, options(engine), "hub" if engine.limits.typed != "none" else "none")
    except CheckpointNotFoundError:
        state["link-asked-for"] = asked
        return first_checkpoint(engine)
    if choices.is_on_request(name, engine.preferred):
        state["link-offers"] = name
        return first_checkpoint(engine)
    _remember(engine, name)
    return name


def _remember(engine: Engine, name: str) -> None:
    if name not in options(engine):
        st.session_state["typed-checkpoints"].append(name)


def _show_link(engine: Engine) -> None:
    """The checkpoint a link asked for but did not get, with a button to load it where that is possible."""
    state = st.session_state
    if state.get("link-asked-for"):
        asked = views.plain(state["link-asked-for"], 60)
        st.caption(
            f":orange[The link asked for {asked}], which this server does not offer; other scores are shown."
        )
    offer = state.get("link-offers")
    if not offer:
        return

    def load() -> None:
        _remember(engine, offer)
        state["checkpoint"], state["link-offers"] = offer, ""

    st.caption(
        f":orange[The link asks for {views.plain(offer, 100)}], which is not on this machine yet; other "
        "scores are shown."
    )
    st.button("Load it", key="load-link", on_click=load, width="stretch")


def _help(engine: Engine) -> str:
    text = "The model that computes the scores. The About page describes each one."
    if engine.limits.typed == "none":
        return text
    folder = ", or a folder of the server" if engine.limits.typed == "folders" else ""
    return (
        f"{text} Type owner/name for any other {family_names()} checkpoint of the Hugging Face hub{folder}."
    )
