"""Pages in Streamlit's test runner: what several test files do with them."""

import io

from PIL import Image


def picture(colour, form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(out, form)
    return out.getvalue()


def text_of(app):
    return "\n".join(str(element.value) for element in [*app.markdown, *app.caption, *app.info, *app.warning])


def upload(app, *files):
    app.file_uploader[0].set_value([(name, data, "image/png") for name, data in files]).run()
    assert not app.exception
    return app


def compare_page():
    """The entry file without its navigation: the runner cannot follow pages that are functions."""
    import streamlit as st

    from clipdemo.ui import inputs, jobs, state
    from clipdemo.ui.pages.compare import page as compare
    from clipdemo.ui.workspace import workspace

    engine, session = state.engine(), workspace()
    view = inputs.sidebar(engine, session)
    st.session_state["seen"] = engine, view
    jobs.run(lambda: compare.show(view, engine), view.jobs, engine.loader, session, page="compare")


def table(page, column):
    return next(frame.value for frame in page.dataframe if column in frame.value.columns)
