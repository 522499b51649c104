"""The facts of the catalogue are consistent, and the docs list each with its source."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from clipdemo import load_encoder
from clipdemo.cli.app import app
from clipdemo.models.catalogue import CATALOGUE, CLIP_BASE, EMBEDDED, format_bytes, title
from clipdemo.models.clip.families import FAMILIES

DOCS = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text("utf-8")
FROM_HUB = [entry for entry in CATALOGUE.values() if entry.id != EMBEDDED]


def tower(width, layers, heads, **more):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"intermediate_size": 4 * width, **sizes, **more}


BASE_TEXT, LARGE_TEXT = tower(512, 12, 8), tower(768, 12, 12)
# Family, text tower, image tower: what is needed to build each architecture, as its authors describe it.
SHAPES = {
    "openai/clip-vit-base-patch32": ("clip", BASE_TEXT, tower(768, 12, 12, patch_size=32)),
    "openai/clip-vit-base-patch16": ("clip", BASE_TEXT, tower(768, 12, 12, patch_size=16)),
    "openai/clip-vit-large-patch14": ("clip", LARGE_TEXT, tower(1024, 24, 16, patch_size=14)),
    "openai/clip-vit-large-patch14-336": ("clip", LARGE_TEXT, tower(1024, 24, 16, patch_size=14)),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": ("clip", BASE_TEXT, tower(768, 12, 12, patch_size=32)),
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": (
        "clip",
        tower(1024, 24, 16),
        tower(1408, 40, 16, patch_size=14) | {"intermediate_size": 6144},
    ),
    "google/siglip-base-patch16-224": ("siglip", {}, {}),
    "google/siglip2-base-patch16-224": ("siglip", {"vocab_size": 256_000}, {}),
    "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M": ("clip", tower(256, 3, 4), tower(256, 10, 4, patch_size=16)),
}


@pytest.mark.parametrize("entry", FROM_HUB, ids=lambda entry: entry.id)
def test_parameters_and_shapes_are_those_of_the_architecture(entry):
    family, text, vision = SHAPES[entry.id]
    settings = {"text_config": text, "vision_config": vision | {"image_size": entry.image_size}}
    if family == "clip":
        settings["projection_dim"] = entry.dim
    model_class = getattr(transformers, FAMILIES[family].model_class)
    config = model_class.config_class(**settings)
    with torch.device("meta"):
        model = model_class(config)
    assert sum(weight.numel() for weight in model.parameters()) == entry.parameters
    assert config.text_config.max_position_embeddings == entry.context_length
    assert entry.dim == (config.projection_dim if family == "clip" else config.vision_config.hidden_size)


def test_the_entry_of_the_embedded_model_matches_its_checkpoint():
    entry, checkpoint = CATALOGUE[EMBEDDED], load_encoder(EMBEDDED).checkpoint
    told = (entry.parameters, entry.dim, entry.image_size, entry.context_length)
    assert told == (checkpoint.parameters, checkpoint.dim, checkpoint.image_size, checkpoint.context_length)
    assert entry.download_bytes == 0


@pytest.mark.parametrize("entry", FROM_HUB, ids=lambda entry: entry.id)
def test_the_weights_file_holds_the_parameters_in_float32(entry):
    assert entry.memory_bytes == pytest.approx(entry.download_bytes, rel=0.003)


@pytest.mark.parametrize("entry", FROM_HUB, ids=lambda entry: entry.id)
def test_every_figure_and_commit_is_in_the_docs_with_its_source(entry):
    assert re.fullmatch(r"https://[\w./-]+", entry.figure.url)
    assert 0 < entry.figure.percent < 100
    assert f"`{entry.id}`" in DOCS
    assert entry.figure.url in DOCS
    assert f"{entry.download_bytes:,}" in DOCS
    assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert entry.revision is None or f"`{entry.revision}`" in DOCS
    assert f"{entry.figure.percent:g} %" in DOCS


def test_every_entry_describes_itself_in_one_line():
    for entry in CATALOGUE.values():
        assert 20 < len(entry.about) < 250
        assert entry.about.endswith(".")
        assert "\n" not in entry.about
    assert len({entry.title for entry in CATALOGUE.values()}) == len(CATALOGUE)


def test_sizes_and_titles_are_for_people():
    sizes = (300_000, 93_812_468, 999_900_000, 1_710_540_580)
    assert [format_bytes(count) for count in sizes] == ["0.3 MB", "94 MB", "1.0 GB", "1.7 GB"]
    assert title(CLIP_BASE) == "CLIP ViT-B/32"
    assert title("owner/name") == "name"


def test_the_command_lists_every_entry_and_whether_it_is_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = CliRunner().invoke(app, ["checkpoints"]).stdout
    told = json.loads(CliRunner().invoke(app, ["checkpoints", "--json"]).stdout)["checkpoints"]
    assert [entry["id"] for entry in told] == list(CATALOGUE)
    assert [entry["here"] for entry in told] == [True] + [False] * len(FROM_HUB)
    assert "Embedded model, on this machine" in text
    for entry in FROM_HUB:
        assert f"{entry.id}  ({entry.title}, to be downloaded, {format_bytes(entry.download_bytes)})" in text
        assert entry.figure.url in text
    base = next(entry for entry in told if entry["id"] == CLIP_BASE)
    assert base["figure"]["percent"] == 30.4
    assert base["memory_bytes"] == 4 * base["parameters"]
