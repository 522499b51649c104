"""The entry of the app: page config, the workspace sidebar, navigation; nothing else."""

from functools import partial
from pathlib import Path

import streamlit as st

from clipdemo.errors import ClipdemoError
from clipdemo.ui import inputs, state, views
from clipdemo.ui.pages import about, rank
from clipdemo.ui.pages.audit import job as audits
from clipdemo.ui.pages.audit import page as audit
from clipdemo.ui.pages.compare import job as comparing
from clipdemo.ui.pages.compare import page as compare
from clipdemo.ui.pages.matrix import page as matrix

ASSETS = Path(__file__).parent / "assets"

st.set_page_config(
    page_title="clipdemo", page_icon=str(ASSETS / "icon.png"), layout="wide", initial_sidebar_state=360
)
st.logo(str(ASSETS / "icon.png"), size="large")
st.html(ASSETS / "style.css")

try:
    shared, space = state.engine(), state.workspace()
    view = inputs.sidebar(shared, space)
    ranking = st.Page(partial(rank.show, view), title="Rank", icon=":material/sort:", default=True)
    page = st.navigation(
        [
            ranking,
            st.Page(partial(matrix.show, view), title="Matrix", url_path="matrix", icon=":material/grid_on:"),
            st.Page(
                partial(compare.show, view, shared),
                title="Compare",
                url_path="compare",
                icon=":material/compare_arrows:",
            ),
            st.Page(
                partial(audit.show, view, shared),
                title="Audit",
                url_path="audit",
                icon=":material/fact_check:",
            ),
            st.Page(
                partial(about.show, view, shared.loader),
                title="About",
                url_path="about",
                icon=":material/info:",
            ),
        ],
        position="top",
    )
    if "next" in st.session_state and page != ranking:  # a score card leads on to the Rank page
        st.switch_page(ranking)
    audit_ended = audits.ended()
    comparing.want_nothing()
    page.run()
    busy = comparing.busy(shared, space)
    if not busy:
        state.warm_up(shared, space, view.checkpoint)
    more = state.work(view, space, shared.limits, encode=not busy)
    more = comparing.work(shared) or more
    if audits.work(shared.loader, ended_when_drawn=audit_ended) or more:
        st.rerun()
except ClipdemoError as error:
    st.error(views.plain(str(error), 500), icon=":material/error:")
