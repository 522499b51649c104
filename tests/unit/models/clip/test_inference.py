"""Layers that only infer change no embedding, and training gets the model as it was loaded."""

import copy
import gc
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from clipdemo.models.clip import inference
from clipdemo.models.clip.encoder import Origin, TransformersEncoder
from clipdemo.models.clip.inference import InPlaceActivation, restore, specialise
from clipdemo.models.clip.product import PackedLinear, is_available

CAPTIONS = ["a red square", "blue", "a green square"]
FAMILIES = ["colour_clip", "tiny_siglip", "tiny_siglip2"]
PACKED = pytest.param(True, marks=pytest.mark.skipif(not is_available(), reason="PyTorch without oneDNN"))
ORIGIN = Origin("tiny", "local", "f" * 64, "folder")


@pytest.fixture
def load(request, monkeypatch):
    """Load a checkpoint by the name of its fixture, with packed layers or without, whatever the processor."""

    def loaded(fixture, *, packed):
        monkeypatch.setattr(inference, "packed_is_quicker", lambda: packed)
        return TransformersEncoder(request.getfixturevalue(fixture), ORIGIN)

    return loaded


def layers(encoder, kind):
    return [layer for layer in encoder._model.modules() if type(layer) is kind]


def weights_of(encoder):
    return {name: weight.clone() for name, weight in encoder.model.state_dict().items()}


def least_cosine(left, right):
    return float((left.astype(np.float64) * right).sum(axis=1).min())


@pytest.mark.parametrize("packed", [False, PACKED])
@pytest.mark.parametrize("fixture", FAMILIES)
def test_embeddings_are_those_of_the_model_as_loaded(fixture, packed, load, colour_items):
    encoder = load(fixture, packed=packed)
    assert bool(layers(encoder, PackedLinear)) is packed
    assert layers(encoder, InPlaceActivation)
    images, captions = encoder.encode_images(colour_items), encoder.encode_captions(CAPTIONS)
    restore(encoder._model)
    assert not layers(encoder, PackedLinear)
    assert not layers(encoder, InPlaceActivation)
    assert least_cosine(images, encoder.encode_images(colour_items)) > 1 - 1e-6
    assert least_cosine(captions, encoder.encode_captions(CAPTIONS)) > 1 - 1e-6


@pytest.mark.parametrize("fixture", FAMILIES)
def test_packed_layers_leave_the_description_unchanged(fixture, load):
    assert load(fixture, packed=is_available()).checkpoint == load(fixture, packed=False).checkpoint


@pytest.mark.parametrize("fixture", FAMILIES)
def test_training_gets_the_weights_bit_for_bit(fixture, load):
    expected, encoder = weights_of(load(fixture, packed=False)), load(fixture, packed=is_available())
    actual = weights_of(encoder)
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(weight.requires_grad for weight in encoder.model.parameters())


def test_the_model_of_a_packed_encoder_can_learn(load, colour_items):
    encoder = load("colour_clip", packed=is_available())
    features = encoder.model.get_image_features(
        **encoder.image_inputs([item.seen_by(encoder.view) for item in colour_items])
    )
    features.pooler_output.sum().backward()
    assert all(
        layer.weight.grad is not None
        for layer in encoder.model.vision_model.encoder.modules()
        if isinstance(layer, nn.Linear)
    )


@pytest.mark.parametrize("fixture", FAMILIES)
def test_a_packed_encoder_saves_an_ordinary_checkpoint(fixture, load, colour_items, tmp_path):
    encoder = load(fixture, packed=is_available())
    before = encoder.encode_images(colour_items)
    encoder.save(tmp_path)
    again = TransformersEncoder(tmp_path, ORIGIN).encode_images(colour_items)
    assert least_cosine(before, again) > 1 - 1e-6


@pytest.mark.skipif(not is_available(), reason="PyTorch without oneDNN")
def test_layers_that_attention_reads_itself_stay(load):
    encoder = load("tiny_siglip", packed=True)
    head = encoder._model.vision_model.head.attention
    assert isinstance(head.out_proj, nn.Linear)


@pytest.mark.skipif(not is_available(), reason="PyTorch without oneDNN")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")
def test_a_packed_model_lets_go_of_the_weights_file(colour_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "packed_is_quicker", lambda: True)
    folder = shutil.copytree(colour_clip, tmp_path / "mapped")
    encoder = TransformersEncoder(folder, ORIGIN)
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text("utf-8")
    assert encoder.checkpoint.parameters


@pytest.mark.skipif(not is_available(), reason="PyTorch without oneDNN")
def test_a_deep_copy_of_a_packed_model_encodes_the_same(load):
    model = load("colour_clip", packed=True)._model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(
            copy.deepcopy(model).get_image_features(pixel_values=pixels).pooler_output, expected
        )


def test_encoding_goes_on_while_another_thread_takes_the_model(load, colour_items):
    encoder = load("colour_clip", packed=is_available())
    expected, rows = encoder.encode_images(colour_items), []
    thread = threading.Thread(
        target=lambda: rows.extend(encoder.encode_images(colour_items) for _ in range(8))
    )
    thread.start()
    for _ in range(8):
        restore(encoder._model)
        specialise(encoder._model)
    thread.join()
    assert len(rows) == 8
    assert min(least_cosine(expected, each) for each in rows) > 1 - 1e-6


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_an_activation_in_place_computes_the_same(name):
    original, rows = ACT2FN[name], torch.linspace(-12, 12, 1001)
    in_place = InPlaceActivation.of(original)
    expected = original(rows)
    out = in_place(rows)
    assert out.data_ptr() == rows.data_ptr()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
