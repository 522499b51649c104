"""The picker, through Streamlit's test runner: choose, type, refuse, follow a link. The hub is down."""

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from training import run, write_pairs

from clipdemo.models.catalogue import CATALOGUE
from clipdemo.ui import picker as checkpoint_picker

ENTRY = Path(__file__).parents[2] / "streamlit_app.py"
LARGE = "openai/clip-vit-large-patch14"


def said(app):
    return "\n".join(str(element.value) for element in [*app.markdown, *app.caption]).replace("\\", "")


def picker(app):
    return app.selectbox(key="checkpoint")


def type_in(app, words):
    """As the browser does: what is typed is sent like the label of an option."""
    picker(app).options.append(words)
    picker(app).set_value(words).run()
    assert not app.exception
    return app


def follow(link):
    app = AppTest.from_file(str(ENTRY), default_timeout=120)
    app.query_params["checkpoint"] = link
    app.run()
    assert not app.exception
    return app


def wait_for(app, words):
    deadline = time.monotonic() + 90
    while words not in said(app):
        assert time.monotonic() < deadline, said(app)
        time.sleep(0.2)
        app.run()
        assert not app.exception


def test_every_checkpoint_of_the_catalogue_is_offered_with_what_it_needs(run_app):
    options = picker(run_app()).options
    assert len(options) == len(CATALOGUE)
    assert options[0] == "Embedded model"
    assert "CLIP ViT-L/14 · 1.7 GB to download" in options


def test_one_that_cannot_be_had_falls_back_with_the_reason_and_stays_offered_as_such(run_app):
    app = run_app()
    picker(app).set_value(LARGE).run()
    wait_for(app, "CLIP ViT-L/14 is not available")
    assert "offline mode is on" in said(app)
    assert picker(app).value == "embedded"
    assert "CLIP ViT-L/14 · not available" in picker(app).options
    assert any(button.label == "Try again" for button in app.button)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("/etc", "not open to visitors"),
        ("../../secret", "not open to visitors"),
        ("~/models", "not open to visitors"),
        ("**bold** [x](http://evil)", "Not accepted"),
        ("a/b\u0007", "not the name of a checkpoint"),
        ("x" * 3000, "not the name of a checkpoint"),
    ],
)
def test_hostile_words_get_a_sentence_and_the_last_checkpoint_stays(run_app, words, reason):
    app = type_in(run_app(CLIPDEMO_TYPED_CHECKPOINTS="hub"), words)
    assert reason in said(app)
    assert picker(app).value == "embedded"
    assert len(picker(app).options) == len(CATALOGUE)
    assert app.query_params["checkpoint"] == "embedded"


def test_a_typed_hub_name_is_tried_and_its_failure_told(run_app):
    app = type_in(run_app(CLIPDEMO_TYPED_CHECKPOINTS="hub"), "owner/name")
    assert "checkpoint" in app.query_params
    wait_for(app, "name is not available")
    assert picker(app).value == "embedded"
    assert "name · not available" in picker(app).options


def test_nothing_can_be_typed_unless_the_host_says_so(run_app):
    app = type_in(run_app(), "owner/name")
    assert picker(app).value == "embedded"
    assert "name · to be downloaded" not in picker(app).options
    assert "Type owner/name" not in picker(app).help


def test_a_typed_folder_is_used_where_the_host_allows_it_and_linked_without_its_path(run_app, colour_clip):
    app = type_in(run_app(CLIPDEMO_TYPED_CHECKPOINTS="folders"), str(colour_clip))
    wait_for(app, "77 tokens")
    assert picker(app).value == str(colour_clip)
    assert app.query_params["checkpoint"] == colour_clip.name
    picker(app).set_value("embedded").run()
    picker(app).set_value(str(colour_clip)).run()  # it stays on offer in this session
    assert picker(app).value == str(colour_clip)


def test_a_trained_folder_may_be_typed_where_folders_may(run_app, tiny_towers, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image, text = map(str, tiny_towers)
    run(write_pairs(tmp_path), tmp_path / "my-own", image_tower=image, text_tower=text, epochs=1)
    app = type_in(run_app(CLIPDEMO_TYPED_CHECKPOINTS="folders"), str(tmp_path / "my-own"))
    wait_for(app, "64 tokens")
    assert picker(app).value == str(tmp_path / "my-own")
    assert app.query_params["checkpoint"] == "my-own"


def test_what_is_no_dual_encoder_is_refused_in_words(run_app, tmp_path):
    folder = tmp_path / "some-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    app = type_in(run_app(CLIPDEMO_TYPED_CHECKPOINTS="folders"), str(folder))
    wait_for(app, "image-text dual encoders")
    assert picker(app).value == "embedded"


def test_one_that_fails_while_the_page_is_drawn_falls_back_in_the_same_run(run_app, tmp_path, monkeypatch):
    folder = tmp_path / "some-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    app = run_app(CLIPDEMO_TYPED_CHECKPOINTS="folders")
    choose = checkpoint_picker.choose

    def choose_slowly(shared):
        chosen = choose(shared)
        if chosen == str(folder):
            shared.loader.start(chosen)
            while shared.loader.status(chosen).state != "failed":
                time.sleep(0.05)
        return chosen

    monkeypatch.setattr(checkpoint_picker, "choose", choose_slowly)
    type_in(app, str(folder))
    assert "image-text dual encoders" in said(app)
    assert picker(app).value == "embedded"


def test_a_link_to_what_is_not_on_offer_says_so(run_app):
    run_app(CLIPDEMO_TYPED_CHECKPOINTS="hub")  # with the hub down
    app = follow("evil/../model")
    assert "The link asked for evil/../model" in said(app).replace("\u2060", "")
    assert picker(app).value == "embedded"


@pytest.mark.parametrize("name", ["owner/name", LARGE])
def test_a_link_starts_no_download_before_a_click(run_app, name):
    run_app(CLIPDEMO_TYPED_CHECKPOINTS="hub")
    app = follow(name)
    assert f"The link asks for {name}" in said(app)
    assert "is not available" not in said(app).replace("CLIP ViT-B/32 is not available", "")
    assert picker(app).value == "embedded"
    app.button(key="load-link").click().run()
    assert not app.exception
    assert not any(button.key == "load-link" for button in app.button)
    wait_for(app, f"{CATALOGUE[name].title if name in CATALOGUE else 'name'} is not available")


def test_a_link_cannot_ask_for_a_typed_name_unless_names_can_be_typed(run_app):
    run_app()
    app = follow("owner/name")
    assert "The link asked for owner/name" in said(app)
    assert not any(button.key == "load-link" for button in app.button)


def test_a_link_never_opens_a_folder_even_where_visitors_may_type_one(run_app, colour_clip):
    run_app(CLIPDEMO_TYPED_CHECKPOINTS="folders")
    app = follow(str(colour_clip))
    assert "which this server does not offer" in said(app)
    assert picker(app).value == "embedded"
