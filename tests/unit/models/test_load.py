import shutil

import numpy as np
import pytest
import torch
from stand_in_hub import StandInHub
from transformers import CLIPModel

from clipdemo import load_encoder, score_matrix
from clipdemo.errors import CheckpointNotFoundError, HubUnreachableError, UnsafeWeightsError
from clipdemo.models import catalogue, load
from clipdemo.models.catalogue import CATALOGUE


@pytest.fixture
def hub(colour_clip, monkeypatch, tmp_path):
    pickled = shutil.copytree(colour_clip, tmp_path / "pickled")
    torch.save(CLIPModel.from_pretrained(pickled).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    repos = {"tiny/safe": colour_clip, "tiny/pickled": pickled, catalogue.CLIP_BASE: pickled}
    with StandInHub(repos) as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_hub_name_becomes_an_encoder_with_its_resolved_revision(hub, colour_items):
    seen = []
    encoder = load_encoder("tiny/safe", on_progress=seen.append)
    assert encoder.checkpoint.revision == hub.commit("tiny/safe")
    assert (encoder.checkpoint.id, encoder.checkpoint.source) == ("tiny/safe", "hub")
    assert seen[-1].done == seen[-1].total
    cosine = score_matrix(encoder, colour_items, [f"a {item.name} square" for item in colour_items]).cosine
    assert (cosine.argmax(axis=0) == np.arange(len(colour_items))).all()


def test_a_cached_checkpoint_loads_without_the_hub(hub):
    assert not load.is_local("tiny/safe")
    load_encoder("tiny/safe")
    assert load.is_local("tiny/safe")
    asked = hub.count("model.safetensors")
    hub.repos.clear()
    load_encoder("tiny/safe")
    assert hub.count("model.safetensors") == asked


def test_broken_files_in_the_cache_are_downloaded_again(hub, tmp_path):
    load_encoder("tiny/safe")
    weights = next((tmp_path / "home").rglob("snapshots/*/model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:1000])
    assert load_encoder("tiny/safe").encode_captions(["red"]).shape == (1, 16)


def test_pickled_weights_are_read_only_for_catalogue_names(hub):
    assert load_encoder(catalogue.CLIP_BASE).encode_captions(["red"]).shape == (1, 16)
    with pytest.raises(UnsafeWeightsError, match="tiny/pickled"):
        load_encoder("tiny/pickled")


def test_pickled_weights_in_the_cache_are_refused_as_well(hub, tmp_path):
    load_encoder(catalogue.CLIP_BASE)
    home = next((tmp_path / "home").rglob("models--openai--clip-vit-base-patch32"))
    copy = shutil.copytree(home, home.parent / "models--tiny--pickled", symlinks=True)
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text(CATALOGUE[catalogue.CLIP_BASE].revision)
    assert load.is_local("tiny/pickled")
    with pytest.raises(UnsafeWeightsError):
        load_encoder("tiny/pickled")


def test_two_revisions_have_two_fingerprints(hub, colour_clip, tmp_path):
    first = load_encoder("tiny/safe").checkpoint
    folder = shutil.copytree(colour_clip, tmp_path / "changed")
    (folder / "README.md").write_text("changed")
    assert (
        load_encoder(str(colour_clip)).checkpoint.fingerprint
        != load_encoder(str(folder)).checkpoint.fingerprint
    )
    assert first.fingerprint != load_encoder(str(colour_clip)).checkpoint.fingerprint


@pytest.mark.parametrize("name", ["no-slash", "a/b/c", "../../etc/passwd", "http://x/y", "", "owner/na me"])
def test_an_invalid_name_is_refused_before_any_request(hub, name):
    with pytest.raises(CheckpointNotFoundError):
        load_encoder(name)
    assert not hub.requests


def test_an_unknown_name_is_in_the_error(hub):
    with pytest.raises(CheckpointNotFoundError, match="tiny/absent"):
        load_encoder("tiny/absent")


def test_an_unreachable_hub_gives_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachableError, match="does not answer"):
        load_encoder("tiny/safe")


def test_the_host_sets_the_preferred_checkpoint():
    assert load.preferred({}) == catalogue.CLIP_BASE
    assert load.preferred({"CLIPDEMO_CHECKPOINT": " /models/mine "}) == "/models/mine"


def test_titles_are_for_people():
    assert catalogue.title("embedded") == "Embedded model"
    assert catalogue.title("/models/my-clip/") == "my-clip"
    assert catalogue.title("owner/name") == "name"


def test_a_folder_may_be_given_as_a_path(colour_clip, tmp_path):
    assert load_encoder(colour_clip).checkpoint.id == colour_clip.name
    for wrong in (tmp_path / "absent", tmp_path, None, 5):
        with pytest.raises(CheckpointNotFoundError):
            load_encoder(wrong)


def test_a_folder_of_a_checkpoint_may_be_named_without_a_path(colour_clip, tmp_path, monkeypatch):
    monkeypatch.chdir(colour_clip.parent)
    assert load_encoder(colour_clip.name).checkpoint.id == colour_clip.name
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="neither the folder of a checkpoint"):
        load_encoder("notes")


def test_a_catalogue_name_is_loaded_at_its_pinned_commit(hub):
    pinned = CATALOGUE[catalogue.CLIP_BASE].revision
    assert load_encoder(catalogue.CLIP_BASE).checkpoint.revision == pinned
    asked = len(hub.requests)
    assert load_encoder(catalogue.CLIP_BASE).checkpoint.revision == pinned
    assert len(hub.requests) == asked  # the second time without the hub


def test_without_the_hub_another_cached_commit_is_used_and_shown(hub, monkeypatch, tmp_path):
    load_encoder(catalogue.CLIP_BASE)
    home, older = next((tmp_path / "home").rglob("models--openai--clip-vit-base-patch32")), "0" * 39 + "1"
    next((home / "snapshots").iterdir()).rename(home / "snapshots" / older)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(older)
    assert load.is_local(catalogue.CLIP_BASE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_encoder(catalogue.CLIP_BASE).checkpoint.revision == older
    monkeypatch.delenv("HF_HUB_OFFLINE")  # with the hub the pinned one comes, from the same blobs
    assert load_encoder(catalogue.CLIP_BASE).checkpoint.revision == CATALOGUE[catalogue.CLIP_BASE].revision
    assert hub.count("pytorch_model.bin") == 1


def test_a_broken_copy_without_the_hub_gives_the_hub_error(hub, monkeypatch, tmp_path):
    load_encoder("tiny/safe")
    weights = next((tmp_path / "home").rglob("snapshots/*/model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="unset it to download"):
        load_encoder("tiny/safe")


def test_a_link_never_names_a_path_of_the_server(colour_clip):
    assert load.public_id(str(colour_clip)) == colour_clip.name
    assert load.public_id("owner/name") == "owner/name"
