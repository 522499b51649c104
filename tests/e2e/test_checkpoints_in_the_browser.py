"""Checkpoints that come from a hub or a folder while visitors are on the page."""

import json
import re

import pytest
from browsing import TILE, ranked, running_app, settled, write_captions
from playwright.sync_api import expect
from stand_in_hub import Fault, StandInHub

from clipdemo.models.catalogue import CLIP_BASE

pytestmark = pytest.mark.browser
SCORED_UNDER_CLIP = re.compile("Scored under .* 77 tokens")  # the embedded model reads 128
LOADING = 180_000  # milliseconds; importing torch and transformers takes long where cores are shared


def expect_chosen(page, title):
    expect(page.get_by_role("combobox", name="Checkpoint")).to_have_value(title)


def type_in(page, words):
    box = page.get_by_role("combobox", name="Checkpoint")
    box.click()
    box.fill(words)
    box.press("Enter")
    settled(page)


def test_clip_downloads_behind_the_page_and_is_offered_in_one_click(browser, page, colour_clip, tmp_path):
    with StandInHub({CLIP_BASE: colour_clip}) as hub:
        hub.faults["model.safetensors"] = Fault(bytes_per_second=15_000)  # 17 seconds
        with running_app(tmp_path / "log", HF_ENDPOINT=hub.url) as app:
            page.goto(app)
            page.get_by_text("Downloading CLIP ViT-B/32").wait_for()
            page.locator(TILE).first.wait_for()
            expect_chosen(page, "Embedded model")
            settled(page)
            before = page.locator("[data-testid=stMain]").inner_text()
            switch = page.get_by_role("button", name="CLIP ViT-B/32 is ready: switch to it")
            switch.wait_for(timeout=LOADING)
            settled(page)
            # Numbers never change under a presenter's eyes by themselves.
            assert page.locator("[data-testid=stMain]").inner_text() == before
            switch.click()
            page.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)
            expect_chosen(page, "CLIP ViT-B/32")
            assert "checkpoint=openai" in page.url

            other = page.context.browser.new_context().new_page()
            other.goto(app)
            other.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)  # a new visit starts on it
            other.context.close()


def test_a_download_that_fails_leaves_the_page_working_and_can_be_tried_again(
    browser, page, colour_clip, tmp_path
):
    with StandInHub({CLIP_BASE: colour_clip}) as hub:
        hub.faults["model.safetensors"] = Fault(corrupt=True, times=1)
        with running_app(tmp_path / "log", HF_ENDPOINT=hub.url) as app:
            ranked(page, app)
            page.get_by_text("is not available").wait_for()
            page.get_by_role("button", name="Try again").click()
            page.get_by_role("button", name="CLIP ViT-B/32 is ready: switch to it").wait_for(timeout=LOADING)


def test_the_hosts_own_checkpoint_is_what_visits_start_on(browser, page, colour_clip, tmp_path):
    with running_app(tmp_path / "log", CLIPDEMO_CHECKPOINT=str(colour_clip)) as app:
        page.goto(app)
        page.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)
        write_captions(page, "a red square", "a blue square")
        expect_chosen(page, re.compile("^colour-clip"))


def test_a_host_checkpoint_that_cannot_be_used_falls_back_on_the_embedded_model(browser, page, tmp_path):
    (tmp_path / "empty").mkdir()
    with running_app(tmp_path / "log", CLIPDEMO_CHECKPOINT=str(tmp_path / "empty")) as app:
        page.goto(app)
        page.get_by_text("is not a checkpoint").wait_for()
        page.locator(TILE).first.wait_for()
        expect_chosen(page, "Embedded model")


def test_a_folder_is_typed_where_the_host_allows_it_and_one_without_a_dual_encoder_is_refused(
    browser, page, colour_clip, tmp_path
):
    other = tmp_path / "some-bert"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with running_app(tmp_path / "log", CLIPDEMO_TYPED_CHECKPOINTS="folders") as app:
        ranked(page, app)
        type_in(page, str(colour_clip))
        page.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)
        expect_chosen(page, colour_clip.name)
        assert f"checkpoint={colour_clip.name}" in page.url
        assert str(colour_clip.parent) not in page.url

        type_in(page, str(other))
        page.get_by_text("image-text dual encoders").wait_for(timeout=LOADING)
        expect_chosen(page, "Embedded model")

        type_in(page, str(tmp_path / "absent"))
        page.get_by_text("does not exist on this server").wait_for()
        expect_chosen(page, "Embedded model")


def test_a_hub_name_is_typed_and_what_the_host_does_not_allow_is_refused(
    browser, page, colour_clip, tmp_path
):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in colour_clip.iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    (wrong / "config.json").write_text(json.dumps({"model_type": "bert"}))
    repos = {"tiny/colours": colour_clip, "tiny/bert": wrong}
    environment = {"CLIPDEMO_TYPED_CHECKPOINTS": "hub"}
    with (
        StandInHub(repos) as hub,
        running_app(tmp_path / "log", HF_ENDPOINT=hub.url, **environment) as app,
    ):
        ranked(page, app)
        type_in(page, str(colour_clip))
        page.get_by_text("folders of this server are not open to visitors").wait_for()
        expect_chosen(page, "Embedded model")

        type_in(page, "tiny/colours")
        page.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)
        expect_chosen(page, "colours")
        expect(page.get_by_text("not open to visitors")).to_have_count(0)

        type_in(page, "tiny/bert")
        page.get_by_text("of the type 'bert'").wait_for(timeout=LOADING)
        expect_chosen(page, "Embedded model")
        sent = [each.file for each in hub.requests if each.repo == "tiny/bert"]
        assert "config.json" in sent
        assert "model.safetensors" not in sent


def test_a_link_to_a_hub_name_waits_for_the_visitors_click(browser, page, colour_clip, tmp_path):
    with (
        StandInHub({"tiny/colours": colour_clip}) as hub,
        running_app(tmp_path / "log", HF_ENDPOINT=hub.url, CLIPDEMO_TYPED_CHECKPOINTS="hub") as app,
    ):
        page.goto(f"{app}/?checkpoint=tiny/colours")
        page.get_by_role("button", name="Load it").wait_for()
        settled(page)
        assert not [each for each in hub.requests if each.repo == "tiny/colours"]
        page.get_by_role("button", name="Load it").click()
        page.get_by_text(SCORED_UNDER_CLIP).wait_for(timeout=LOADING)
        expect_chosen(page, "colours")
        expect(page.get_by_role("button", name="Load it")).to_have_count(0)
