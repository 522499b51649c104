"""The Compare page, through Streamlit's test runner; the browser proves chart, columns and downloads."""

import csv
import io

import numpy as np
import pytest
from app_pages import compare_page, table, text_of
from plain_encoder import SQUARES
from scipy import stats
from streamlit.testing.v1 import AppTest

from clipdemo import samples
from clipdemo.models.catalogue import EMBEDDED


def settled(page):
    """Wait for what loads in the background, as the page's own looking again does in a browser."""
    for _ in range(3):
        shared, _ = page.session_state["seen"]
        for name in page.multiselect(key="compare").value:
            shared.loader.wait(name)
        page.run()
        assert not page.exception
    return page


@pytest.fixture
def app(run_app, colour_clip):
    run_app(CLIPDEMO_CHECKPOINT=str(colour_clip))
    return settled(AppTest.from_function(compare_page, default_timeout=180).run())


def encoders(page):
    shared, view = page.session_state["seen"]
    return [shared.loader.known(name) for name in page.multiselect(key="compare").value], view


def test_a_first_look_compares_the_checkpoint_in_use_with_one_that_is_here(app, colour_clip):
    assert app.multiselect(key="compare").value == [str(colour_clip), EMBEDDED]
    shown = text_of(app)
    assert "never raw cosines" in shown
    assert "**colour\\-clip" in shown
    assert "**Embedded model**" in shown
    headings = [heading.value for heading in app.subheader]
    assert "Where they disagree most" in headings
    assert "What they cost on this machine" in headings


def test_agreement_equals_scipys_on_the_scores_of_both(app):
    from clipdemo.scoring.score import score_matrix

    both, view = encoders(app)
    one, two = (score_matrix(encoder, view.items, view.captions).cosine for encoder in both)
    shown = table(app, "Spearman")
    assert shown["over"].tolist() == ["this caption", f"mean of {len(view.captions)} captions"]
    rho = [stats.spearmanr(one[:, n], two[:, n]).statistic for n in range(len(view.captions))]
    tau = [stats.kendalltau(one[:, n], two[:, n]).statistic for n in range(len(view.captions))]
    np.testing.assert_allclose(shown["Spearman"], [rho[0], np.mean(rho)], atol=1e-9)
    np.testing.assert_allclose(shown["Kendall"], [tau[0], np.mean(tau)], atol=1e-9)


def test_changing_caption_or_size_encodes_nothing_again(app, monkeypatch):
    both, view = encoders(app)
    asked = []
    for encoder in both:
        monkeypatch.setattr(type(encoder.encoder), "encode_images", lambda *_: asked.append("images"))
        monkeypatch.setattr(type(encoder.encoder), "encode_captions", lambda *_: asked.append("captions"))
    app.selectbox(key="compare-caption").set_value(view.captions[2]).run()
    app.selectbox(key="compare-k").set_value(3).run()
    assert not app.exception
    assert "same in first 3" in table(app, "Spearman").columns
    assert f"“{view.captions[2]}”" in [heading.value for heading in app.subheader]
    assert asked == []


def test_costs_are_measured_once_for_each_and_can_be_measured_again(app):
    shown = table(app, "ms an image")
    assert (shown["ms an image"] > 0).all()
    assert shown["load, s"][0] > 0
    assert shown["embedding"].tolist() == [16, 386]
    assert shown["device"].tolist() == ["cpu", "cpu"]
    shared, _ = app.session_state["seen"]
    before = [shared.stopwatch.speed(encoder.checkpoint) for encoder in encoders(app)[0]]
    next(button for button in app.button if button.label == "Measure again").click().run()
    assert not app.exception
    assert [shared.stopwatch.speed(encoder.checkpoint) for encoder in encoders(app)[0]] != before


def test_file_names_as_captions_give_recall_both_ways(app):
    app.selectbox(key="compare-truth").set_value("file names are captions").run()
    assert not app.exception
    shown = table(app, "recall@1")
    assert shown["asks"].tolist() == ["image → caption", "caption → image"] * 2
    assert set(shown["questions"]) == {len(samples.samples())}
    assert shown["recall@5"].between(0, 1).all()
    assert (shown["recall@5"] >= shown["recall@1"]).all()


def test_a_table_gives_the_right_captions_of_the_images_it_names(app):
    out = io.StringIO()
    rows = [
        ["image", "caption"],
        ["cat.jpg", "a cat"],
        ["x/coffee.jpg", "a cup of coffee"],
        ["gone.jpg", "x"],
    ]
    csv.writer(out).writerows(rows)
    app.selectbox(key="compare-truth").set_value("a table of mine").run()
    app.file_uploader(key="compare-table").upload("right.csv", out.getvalue().encode(), "text/csv").run()
    assert not app.exception
    assert table(app, "recall@1")["questions"].tolist() == [2, 2, 2, 2]
    assert "2 of 14 images have a right caption" in text_of(app)
    app.file_uploader(key="compare-table").upload("wrong.csv", b"a,b\n1,2\n", "text/csv").run()
    assert "no image column" in app.error[0].value.replace("\\", "")


def test_an_images_colour_is_found_by_the_checkpoint_that_knows_colours(app, colour_clip):
    app.selectbox(key="samples").set_value("none")
    files = [(f"a-{name[:-4]}-square.png", data, "image/png") for name, data in SQUARES.items()]
    app.file_uploader[0].set_value(files).run()
    app.selectbox(key="compare-truth").set_value("file names are captions").run()
    settled(app)
    shown = table(app, "recall@1")
    assert shown[shown["model"].str.startswith("colour-clip")]["recall@1"].tolist() == [1, 1]


def test_fewer_than_two_say_what_to_do(app, colour_clip):
    app.multiselect(key="compare").set_value([EMBEDDED]).run()
    assert "Choose two models" in text_of(app)
    app.multiselect(key="compare").set_value([EMBEDDED, str(colour_clip)]).run()
    app.text_area(key="captions").set_value("").run()
    assert "No captions yet" in text_of(app)
    app.selectbox(key="samples").set_value("none").run()
    assert "No images yet" in text_of(app)
    assert not app.exception


def test_one_that_fails_says_why_and_does_not_stop_the_other(run_app, tmp_path):
    (tmp_path / "empty").mkdir()
    run_app(CLIPDEMO_CHECKPOINT=str(tmp_path / "empty"))
    page = settled(AppTest.from_function(compare_page, default_timeout=180).run())
    page.multiselect(key="compare").set_value([EMBEDDED, str(tmp_path / "empty")])
    page = settled(page.run())
    assert "cannot be compared" in text_of(page)
    assert "is not a checkpoint" in text_of(page).replace("\\", "")
    assert table(page, "ms an image")["model"].tolist() == ["Embedded model"]
    assert any(button.label == "Try empty again" for button in page.button)


def test_a_link_names_checkpoints_but_never_fetches_them(run_app, colour_clip):
    run_app(CLIPDEMO_CHECKPOINT=str(colour_clip))
    page = AppTest.from_function(compare_page, default_timeout=180)
    page.query_params["compare"] = [EMBEDDED, "evil/model", colour_clip.name]
    page.run()
    assert page.multiselect(key="compare").value == [EMBEDDED, str(colour_clip)]
    assert "evil/model" in text_of(page).replace("\\", "")
    assert page.query_params["compare"] == [EMBEDDED, colour_clip.name]


def test_scores_of_released_weights_stay_on_the_page(app):
    encoders(app)[0][1].release()
    app.selectbox(key="compare-k").set_value(10).run()
    assert not app.exception
    assert len(table(app, "Spearman")) == 2
