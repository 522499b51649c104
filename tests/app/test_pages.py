"""Every page and every input, through Streamlit's test runner."""

import re
from pathlib import Path

import pytest
from app_pages import picture, text_of, upload
from streamlit.testing.v1 import AppTest
from training import run, write_pairs

from clipdemo import samples
from clipdemo.models.catalogue import CATALOGUE
from clipdemo.ui.state import engine

ENTRY = Path(__file__).parents[2] / "streamlit_app.py"


def test_the_first_visit_ranks_the_gallery(run_app):
    app = run_app()
    headings = [m.value.replace("\\", "") for m in app.markdown if m.value.startswith("####")]
    assert headings == [f"#### {caption}" for caption in samples.SAMPLE_CAPTIONS]
    assert "14 images" in text_of(app)


def test_the_lint_counts_tokens_and_points_at_weak_spots(run_app):
    app = run_app()
    app.text_area(key="captions").set_value("a street without cars\n" + "word " * 300 + "\ncat\ncat").run()
    lint = text_of(app)
    assert "6/128 tokens" in lint
    assert "302/128 tokens" in lint
    assert "cut off after" in lint
    assert "~~word" in lint
    assert "negation" in lint
    assert "1 duplicate caption was dropped" in lint


def test_one_caption_gets_no_share_and_is_told_why(run_app):
    app = run_app()
    app.text_area(key="captions").set_value("a cat").run()
    assert "a share requires at least two" in text_of(app)


def test_no_captions_and_no_images_each_say_what_to_do_next(run_app):
    app = run_app()
    app.text_area(key="captions").set_value("").run()
    assert "No captions yet" in text_of(app)
    app.selectbox(key="samples").set_value("none").run()
    assert "No images yet" in text_of(app)


def test_the_same_file_twice_counts_once_and_is_named(run_app):
    red = picture("red")
    app = upload(run_app(), ("a.png", red), ("b.png", red), ("c.txt", b"words"))
    shown = text_of(app).replace("\\", "").replace("\u2060", "")
    assert "15 images" in shown
    assert "b.png** — duplicate: the same file as a.png" in shown
    assert "c.txt** — not an image" in shown


def test_a_full_workspace_says_so_and_keeps_what_it_has(run_app):
    files = [(f"{n}.png", picture((n, 0, 0))) for n in range(5)]
    app = upload(run_app(CLIPDEMO_MAX_IMAGES="16"), *files)
    shown = text_of(app).replace("\\", "")
    assert "**16 images**" in shown
    assert "the limit is 16 images, samples included" in shown


def test_uploads_are_ranked_beside_the_samples(run_app):
    app = upload(run_app(), ("own.jpg", picture("red", "JPEG")))
    app.segmented_control(key="direction").set_value("Captions for an image").run()
    assert any("own.jpg" in option for option in app.selectbox(key="query-image").options)


def test_clearing_forgets_everything_the_session_brought(run_app):
    app = upload(run_app(), ("a.png", picture("red")), ("c.txt", b"words"))
    next(button for button in app.button if button.label == "Clear my images").click().run()
    assert "14 images" in text_of(app)
    assert "c.txt" not in text_of(app)


def test_sessions_never_see_each_others_images(run_app):
    upload(run_app(), ("private.png", picture("red")))
    assert "private" not in text_of(run_app())


def test_own_templates_are_checked_in_words(run_app):
    app = run_app()
    app.selectbox(key="template").set_value("own templates").run()
    app.text_area(key="own_templates").set_value("no slot here").run()
    assert "where the caption goes" in text_of(app)
    app.text_area(key="own_templates").set_value("a painting of {}").run()
    assert "where the caption goes" not in text_of(app)
    assert not app.exception


def test_a_hidden_percentile_says_how_many_it_hides(run_app):
    app = run_app()
    app.selectbox(key="floor").set_value(95).run()
    assert "of 14 hidden" in text_of(app)


def test_a_public_host_can_turn_urls_off(run_app):
    assert "URLs" in run_app().segmented_control(key="way").options
    assert "URLs" not in run_app(CLIPDEMO_ALLOW_URLS="0").segmented_control(key="way").options


def test_a_wrong_setting_is_a_sentence_not_a_traceback(run_app):
    app = run_app(CLIPDEMO_MAX_IMAGES="many")
    assert "CLIPDEMO" in app.error[0].value
    assert "must be a number" in app.error[0].value


@pytest.mark.parametrize(
    "hostile", ["![x](http://evil/x.png)", "<script>alert(1)</script>", "$\\LaTeX$ :red[x] `y`"]
)
def test_captions_reach_markdown_only_escaped(run_app, hostile):
    app = run_app()
    app.text_area(key="captions").set_value(f"{hostile}\na cat").run()
    heading = next(m.value for m in app.markdown if m.value.startswith("#### "))
    for piece in ("![", "](", "<script", "$", ":red[", "`"):
        assert f" {piece}" not in heading.replace("\\" + piece[0], "")
    assert not app.exception


def about_alone():
    from clipdemo.models.cache import EmbeddingStore
    from clipdemo.models.loader import Loader
    from clipdemo.scoring.prompts import Templates
    from clipdemo.ui.pages import about
    from clipdemo.ui.state import View

    about.show(View(None, (), (), Templates(), "embedded", ()), Loader(EmbeddingStore(1000)))


def test_about_says_what_a_number_means():
    app = AppTest.from_function(about_alone, default_timeout=60).run()
    assert not app.exception
    assert "A cosine is not a probability" in text_of(app)
    assert "CLIP ViT-B/32" in text_of(app)
    assert re.search(r"Memory of this server: [\d.]+ [GM]B of [\d.]+ [GM]B used", text_of(app))
    facts = app.dataframe[0].value.set_index("checkpoint")
    assert list(facts.index) == [entry.title for entry in CATALOGUE.values()]
    assert facts.loc["CLIP ViT-B/32", "figure"] == "30.4 %"
    assert facts.loc["CLIP ViT-B/32", "source"].startswith("https://github.com/mlfoundations/")
    assert set(app.dataframe[1].value["photograph"]) == {sample.title for sample in samples.samples()}


def test_foreign_text_never_becomes_a_link(run_app):
    app = run_app()
    app.text_area(key="captions").set_value("see www.example.org or me@example.org\na cat").run()
    heading = next(m.value for m in app.markdown if m.value.startswith("#### ")).replace("\\", "")
    assert "www.example" not in heading
    assert "me@example" not in heading


def test_a_trained_folder_ranks_like_any_checkpoint(run_app, tiny_towers, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image, text = map(str, tiny_towers)
    run(write_pairs(tmp_path), tmp_path / "trained", image_tower=image, text_tower=text, epochs=1)
    folder = str(tmp_path / "trained")
    app = run_app(CLIPDEMO_CHECKPOINT=folder)
    assert engine().loader.wait(folder).state == "ready"
    app.selectbox(key="checkpoint").set_value(folder).run()
    assert not app.exception
    found = engine().loader.encoder(folder)
    assert found is not None
    items = samples.sample_items()
    assert len(found.missing(items)) < len(items)  # the page ranks the samples with it


def test_a_switch_of_the_checkpoint_ends_with_the_samples_on_the_page(run_app, colour_clip):
    app = run_app(CLIPDEMO_CHECKPOINT=str(colour_clip))
    assert engine().loader.wait(str(colour_clip)).state == "ready"
    app.run()
    assert not app.exception
    tiles = [button for button in app.button if button.label == "Score card"]
    assert len(tiles) >= len(samples.samples())
