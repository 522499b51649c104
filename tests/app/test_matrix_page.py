"""The Matrix page, through Streamlit's test runner; the chart itself is proved in the browser."""

import numpy as np
import pytest
from app_pages import picture, text_of, upload
from streamlit.testing.v1 import AppTest

from clipdemo import samples


def matrix_page():
    """The entry file without its navigation: the runner cannot follow pages that are functions."""
    import streamlit as st

    from clipdemo.ui import inputs, jobs, state
    from clipdemo.ui.pages.matrix import page as matrix
    from clipdemo.ui.workspace import workspace

    engine, session = state.engine(), workspace()
    view = inputs.sidebar(engine, session)
    st.session_state["seen"] = view
    jobs.run(lambda: matrix.show(view), view.jobs, engine.loader, session, page="matrix")


@pytest.fixture
def app(run_app):
    run_app()
    page = AppTest.from_function(matrix_page, default_timeout=120).run()
    assert not page.exception
    return page


def table(app):
    return app.dataframe[0].value


def test_every_image_stands_against_every_caption(app):
    shown = table(app)
    assert shown.shape == (len(samples.samples()), len(samples.SAMPLE_CAPTIONS))
    assert shown.columns[0] == "1. a cat looking at the camera"
    best = shown.to_numpy().argmax(axis=0)
    assert [shown.index[n].split(". ", 1)[1] for n in best] == ["cat.jpg", "coffee.jpg", "rocket.jpg"]


def test_each_view_shows_its_own_numbers_and_says_what_they_are(app):
    cosine = table(app).to_numpy()
    app.selectbox(key="show").set_value("Share among captions").run()
    np.testing.assert_allclose(table(app).sum(axis=1), 100, atol=0.2)
    assert "every row adds up to 100" in text_of(app)
    app.selectbox(key="show").set_value("Share among images").run()
    np.testing.assert_allclose(table(app).sum(axis=0), 100, atol=1)
    app.selectbox(key="show").set_value("Rank of the image").run()
    assert (table(app).to_numpy().argmin(axis=0) == cosine.argmax(axis=0)).all()
    app.selectbox(key="show").set_value("Percentile").run()
    assert table(app).to_numpy().max() <= 100


def test_an_order_moves_rows_but_keeps_each_ones_values(app):
    before = {name.split(". ", 1)[1]: row.tolist() for name, row in table(app).iterrows()}
    app.selectbox(key="order").set_value("By best match").run()
    after = {name.split(". ", 1)[1]: row.tolist() for name, row in table(app).iterrows()}
    assert list(after) != list(before)
    assert after == before


def test_other_pairs_offer_the_views_that_make_sense(app):
    app.selectbox(key="show").set_value("Share among images").run()
    app.segmented_control(key="pairs").set_value("Images × images").run()
    assert not app.exception
    assert app.selectbox(key="show").options == ["Cosine", "Percentile", "Rank"]
    assert app.selectbox(key="show").value == "Cosine"
    assert np.isnan(np.diag(table(app))).all()
    app.segmented_control(key="pairs").set_value("Captions × captions").run()
    assert app.selectbox(key="show").options == ["Cosine", "Rank"]
    assert table(app).shape == (3, 3)


def test_one_caption_has_no_share_and_none_says_what_to_do(app):
    app.text_area(key="captions").set_value("a cat").run()
    assert "Share among captions" not in app.selectbox(key="show").options
    app.segmented_control(key="pairs").set_value("Captions × captions").run()
    assert "Type at least two" in text_of(app)
    app.segmented_control(key="pairs").set_value("Images × captions").run()
    app.text_area(key="captions").set_value("").run()
    assert "Type them in the sidebar, one per line" in text_of(app)
    app.segmented_control(key="pairs").set_value("Images × images").run()
    assert table(app).shape == (14, 14)
    app.selectbox(key="samples").set_value("none").run()
    assert "No images yet" in text_of(app)
    assert not app.exception


def test_names_that_come_twice_stay_apart(app):
    upload(app, ("twin.png", picture("red")), ("twin.png", picture("blue")))
    app.run()
    names = list(table(app).index)
    assert [name.split(". ")[1] for name in names[-2:]] == ["twin.png", "twin.png"]
    assert len(set(names)) == 16


def test_a_cell_leads_to_the_card_of_its_pair(app):
    from clipdemo.scoring.score import background, rank, score_matrix
    from clipdemo.ui.pages.matrix.view import matrix_view
    from clipdemo.ui.scored import Scored

    view = app.session_state["seen"]
    matrix = score_matrix(view.encoder, view.items, view.captions)
    scale = background(view.encoder, samples.sample_items(), samples.NEUTRAL_CAPTIONS)
    scored = Scored(view.encoder, matrix, scale, view.templates)
    compared = matrix_view("Images × captions", "Clustered", scored)
    for row, column in ((0, 0), (13, 2), (5, 1)):
        found = compared.card(row, column)
        image, caption = int(compared.rows[row]), int(compared.columns[column])
        assert (found.sha256, found.caption) == (matrix.images[image].sha256, matrix.captions[caption])
        assert found.hit == next(
            h for h in rank(matrix.cosine[:, caption], scale.captions) if h.index == image
        )
    like = matrix_view("Images × images", "As given", scored)
    pair = like.card(0, 3)
    assert (pair.query, pair.sha256, pair.caption) == (matrix.images[0].sha256, matrix.images[3].sha256, None)
    assert pair.hit.rank == 1 + sum(like.cosine[0, n] > like.cosine[0, 3] for n in range(1, 14))
    assert like.card(4, 4) is None
    assert like.card(99, 0) is None
    assert matrix_view("Captions × captions", "As given", scored).card(0, 1) is None
