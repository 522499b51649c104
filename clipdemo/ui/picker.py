"""The picker of the sidebar: which checkpoint the session uses; typed ones and links are judged by ``choices``."""

from __future__ import annotations

import streamlit as st

from clipdemo.errors import CheckpointNotFoundError
from clipdemo.models import choices, load
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.ui import views
from clipdemo.ui.state import Engine, first_checkpoint


def options(shared: Engine) -> list[str]:
    """What this session can choose: what the host offers, then what its visitor typed."""
    typed: list[str] = st.session_state.setdefault("typed-checkpoints", [])
    return list(dict.fromkeys([*choices.offered(shared.preferred), *typed]))


def label(shared: Engine, name: str) -> str:
    """What the picker says of a checkpoint: its title, and whether it must come or cannot."""
    return choices.label(name, failed=shared.loader.status(name).state == "failed")


def choose(shared: Engine) -> str:
    """The selectbox, and beside it what could not be taken and what a link asks for; returns the checkpoint."""
    state = st.session_state
    _take(shared)
    if shared.loader.status(state["checkpoint"]).state == "failed":
        state["fallen"], state["checkpoint"] = state["checkpoint"], EMBEDDED
    state["last-checkpoint"] = state["checkpoint"]
    offered = options(shared)
    labels = {name: label(shared, name) for name in offered}

    def changed() -> None:
        state["refused"] = ""
        if shared.loader.status(state["checkpoint"]).state == "failed":
            shared.loader.start(state["checkpoint"])

    free = shared.limits.typed != "none"
    chosen = st.selectbox(
        "Checkpoint",
        offered,
        key="checkpoint",
        format_func=lambda name: labels.get(name, name),
        help=_help(shared),
        on_change=changed,
        accept_new_options=free,
    )
    if state.get("refused"):
        st.caption(f":orange[Not taken:] {views.plain(state['refused'], 300)}")
    _show_link(shared)
    chosen = chosen or EMBEDDED
    st.query_params["checkpoint"] = load.public_id(chosen)
    return chosen


def _take(shared: Engine) -> None:
    """Make ``state["checkpoint"]`` a name on offer: what was typed is judged, a new session follows its link.

    It is set at every run: the browser knows a checkpoint by its label, and labels change when a download ends.
    """
    state = st.session_state
    wanted = state.get("checkpoint")
    if wanted is None and "last-checkpoint" not in state:
        state["checkpoint"] = _linked(shared)
        return
    last: str = state["last-checkpoint"]
    try:
        state["checkpoint"] = choices.resolve(wanted or last, options(shared), shared.limits.typed)
    except CheckpointNotFoundError as error:
        state["refused"], state["checkpoint"] = str(error), last
    _remember(shared, state["checkpoint"])


def _linked(shared: Engine) -> str:
    """What the address bar asks for, if that needs no download; else what visits start on."""
    state, asked = st.session_state, st.query_params.get("checkpoint", "")
    if not asked:
        return first_checkpoint(shared)
    try:
        name = choices.resolve(asked, options(shared), "hub" if shared.limits.typed != "none" else "none")
    except CheckpointNotFoundError:
        state["link-asked-for"] = asked
        return first_checkpoint(shared)
    if choices.is_on_request(name, shared.preferred):
        state["link-offers"] = name
        return first_checkpoint(shared)
    _remember(shared, name)
    return name


def _remember(shared: Engine, name: str) -> None:
    if name not in options(shared):
        st.session_state["typed-checkpoints"].append(name)


def _show_link(shared: Engine) -> None:
    """What the link asks for and did not get: with a button where a visitor's click is all that is missing."""
    state = st.session_state
    if state.get("link-asked-for"):
        asked = views.plain(state["link-asked-for"], 60)
        st.caption(
            f":orange[The link asked for {asked}], which is not on offer here; the scores are other ones."
        )
    offer = state.get("link-offers")
    if not offer:
        return

    def load() -> None:
        _remember(shared, offer)
        state["checkpoint"], state["link-offers"] = offer, ""

    st.caption(
        f":orange[The link asks for {views.plain(offer, 100)}], which is not on this machine yet; the scores are "
        "other ones."
    )
    st.button("Load it", key="load-link", on_click=load, width="stretch")


def _help(shared: Engine) -> str:
    typed = {
        "none": "",
        "hub": " Type owner/name for any other CLIP or SigLIP of the Hugging Face hub.",
        "folders": " Type owner/name for any other CLIP or SigLIP of the Hugging Face hub, or a folder of the server.",
    }[shared.limits.typed]
    return f"The model that scores. The About page says what each is good for.{typed}"
