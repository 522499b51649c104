"""The entry of the app: page config, the sidebar, navigation; nothing else."""

from functools import partial
from pathlib import Path

import streamlit as st

from clipdemo.errors import ClipdemoError
from clipdemo.escape import escape_logs
from clipdemo.ui import inputs, jobs, state, views
from clipdemo.ui.pages import about, rank
from clipdemo.ui.pages.audit import page as audit
from clipdemo.ui.pages.compare import page as compare
from clipdemo.ui.pages.matrix import page as matrix
from clipdemo.ui.workspace import workspace

ASSETS = Path(__file__).parent / "assets"

escape_logs()
st.set_page_config(
    page_title="clipdemo", page_icon=str(ASSETS / "icon.png"), layout="wide", initial_sidebar_state=360
)
st.logo(str(ASSETS / "icon.png"), size="large")
st.html(ASSETS / "style.css")

try:
    engine, session = state.engine(), workspace()
    view = inputs.sidebar(engine, session)
    pages = {
        "": ("Rank", "sort", partial(rank.show, view)),
        "matrix": ("Matrix", "grid_on", partial(matrix.show, view)),
        "compare": ("Compare", "compare_arrows", partial(compare.show, view, engine)),
        "audit": ("Audit", "fact_check", partial(audit.show, view, engine)),
        "about": ("About", "info", partial(about.show, view, engine.loader)),
    }
    ranking, *others = [
        st.Page(show, title=title, icon=f":material/{icon}:", url_path=path or None, default=not path)
        for path, (title, icon, show) in pages.items()
    ]
    page = st.navigation([ranking, *others], position="top")
    if "next" in st.session_state and page != ranking:  # a score card leads on to the Rank page
        st.switch_page(ranking)
    jobs.run(page.run, view.jobs, engine.loader, session, page=page.url_path)
except ClipdemoError as error:
    st.error(views.plain(str(error), 500), icon=":material/error:")
