"""Typed names and links become a checkpoint on offer, a hub name, a folder where allowed, or an error."""

from pathlib import Path

import pytest

from clipdemo.errors import CheckpointNotFoundError
from clipdemo.models import choices
from clipdemo.models.catalogue import CATALOGUE, CLIP_BASE, EMBEDDED

LARGE = "openai/clip-vit-large-patch14"


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "my-clip"
    folder.mkdir()
    return str(folder)


def test_the_whole_catalogue_and_the_hosts_own_checkpoint_are_on_offer(mine):
    assert choices.offered(CLIP_BASE) == list(CATALOGUE)
    assert choices.offered(mine) == [*CATALOGUE, mine]


def test_a_label_shows_a_download_or_a_failure(mine):
    assert choices.label(EMBEDDED) == "Embedded model"
    assert choices.label(LARGE) == "CLIP ViT-L/14 · 1.7 GB to download"
    assert choices.label(LARGE, failed=True) == "CLIP ViT-L/14 · not available"
    assert choices.label("owner/name") == "name · to be downloaded"
    assert choices.label(mine) == "my-clip"


@pytest.mark.parametrize("typed", ["none", "hub", "folders"])
@pytest.mark.parametrize(
    "words", [LARGE, LARGE.upper(), " CLIP ViT-L/14 ", "clip vit-l/14", "CLIP ViT-L/14 · 1.7 GB to download"]
)
def test_a_checkpoint_on_offer_is_found_by_name_title_and_label(words, typed):
    assert choices.resolve(words, choices.offered(CLIP_BASE), typed) == LARGE


@pytest.mark.parametrize("typed", ["none", "hub", "folders"])
def test_the_hosts_own_folder_is_always_allowed_by_its_public_id(mine, typed):
    assert choices.resolve("my-clip", choices.offered(mine), typed) == mine
    assert choices.resolve(mine, choices.offered(mine), typed) == mine


def test_any_hub_name_can_be_typed_where_the_host_allows_it():
    offered = choices.offered(CLIP_BASE)
    assert choices.resolve(" owner/name-1.5_b ", offered, "hub") == "owner/name-1.5_b"
    assert choices.resolve("owner/name", offered, "folders") == "owner/name"
    with pytest.raises(CheckpointNotFoundError, match="not on offer here; choose one from the list"):
        choices.resolve("owner/name", offered, "none")


def test_a_folder_can_be_typed_only_where_the_host_allows_it(mine):
    offered = choices.offered(CLIP_BASE)
    assert choices.resolve(mine, offered, "folders") == mine
    with pytest.raises(CheckpointNotFoundError, match="not open to visitors"):
        choices.resolve(mine, offered, "hub")
    with pytest.raises(CheckpointNotFoundError, match="does not exist on this server"):
        choices.resolve(mine + "-absent", offered, "folders")


@pytest.mark.parametrize(
    "words", ["/etc", "/etc/absent", "~", "~root/x", "./x", "..", "../..", "C:\\models", "a\\b", "a/b/c"]
)
def test_where_folders_are_refused_answers_reveal_nothing_about_the_server(words, monkeypatch):
    looked = []
    with monkeypatch.context() as patch:
        for look in ("is_dir", "exists"):
            patch.setattr(Path, look, lambda path: looked.append(str(path)))
        with pytest.raises(CheckpointNotFoundError, match="looks like a folder"):
            choices.resolve(words, [CLIP_BASE], "hub")
    assert words not in looked


@pytest.mark.parametrize("words", ["../x", "/tmp/../etc", "~/models", "/a/b\\..\\c", "/" + "x" * 500])
def test_path_tricks_are_refused_where_folders_are_allowed(words):
    with pytest.raises(CheckpointNotFoundError, match=r"type the whole path|does not exist on this server"):
        choices.resolve(words, choices.offered(CLIP_BASE), "folders")


@pytest.mark.parametrize("typed", ["none", "hub", "folders"])
@pytest.mark.parametrize(
    "words",
    ["", "  ", "a/\x00b", "a/b\nc", "\u202eowner/name", "x" * 2000, "**bold**", "![x](http://e/x.png)",
     "a--b/c", "http://x/y", "owner/..", "owner/na me", "<script>", "name"],
)  # fmt: skip
def test_an_invalid_name_gets_a_sentence(words, typed):
    with pytest.raises(CheckpointNotFoundError) as refused:
        choices.resolve(words, choices.offered(CLIP_BASE), typed)
    assert any(advice in str(refused.value) for advice in ("type ", "choose ", "check "))


def test_a_hub_name_is_never_taken_for_a_folder_of_the_server(monkeypatch, tmp_path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="cannot be loaded from the hub on this server"):
        choices.resolve("owner/name", choices.offered(CLIP_BASE), "hub")


def test_a_link_waits_for_a_click_when_it_would_start_a_download(mine):
    assert choices.is_on_request(LARGE, CLIP_BASE)
    assert choices.is_on_request("owner/name", CLIP_BASE)
    assert not choices.is_on_request(CLIP_BASE, CLIP_BASE)  # comes anyway
    assert not choices.is_on_request(EMBEDDED, CLIP_BASE)
    assert not choices.is_on_request(mine, CLIP_BASE)
