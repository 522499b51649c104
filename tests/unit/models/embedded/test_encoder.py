"""The embedded model with its real weights on real photographs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from clipdemo import load_encoder, samples, score_matrix
from clipdemo.models.embedded import towers as embedded_towers
from clipdemo.models.embedded.towers import CONTEXT_LENGTH, IMAGE_PARAMETERS, TEXT_PARAMETERS

FITTING = {
    "astronaut.jpg": "an astronaut",
    "cat.jpg": "a close-up of a tabby cat",
    "coffee.jpg": "a cup of coffee",
    "rocket.jpg": "a rocket on its launch pad",
}


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


@pytest.mark.parametrize(("name", "caption"), FITTING.items())
def test_a_real_photograph_ranks_first_for_a_fitting_caption(encoder, name, caption):
    items = samples.sample_items()
    cosine = score_matrix(encoder, items, [caption]).cosine[:, 0]
    assert items[int(cosine.argmax())].name == name


def test_embeddings_are_float32_of_unit_length(encoder):
    for rows in (encoder.encode_images(samples.sample_items()[:3]), encoder.encode_captions(["a", "b"])):
        assert rows.dtype == np.float32
        assert rows.shape[1] == encoder.checkpoint.dim
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_batch_equals_its_members_encoded_one_by_one(encoder):
    items, captions = samples.sample_items()[:3], ["cat", "a much longer caption about a dog"]
    np.testing.assert_allclose(
        encoder.encode_images(items), np.concatenate([encoder.encode_images([i]) for i in items]), atol=1e-4
    )
    np.testing.assert_allclose(
        encoder.encode_captions(captions),
        np.concatenate([encoder.encode_captions([c]) for c in captions]),
        atol=1e-4,
    )


def test_a_long_caption_is_cut_and_the_tail_is_named(encoder):
    caption = "cat " * 200
    tokens = encoder.caption_tokens(caption)
    assert (tokens.used, tokens.limit) == (202, CONTEXT_LENGTH)
    assert tokens.kept + tokens.cut == caption
    assert tokens.kept.split() == ["cat"] * (CONTEXT_LENGTH - 2)
    np.testing.assert_allclose(
        encoder.encode_captions([caption]), encoder.encode_captions([tokens.kept]), atol=1e-6
    )


def test_a_short_or_empty_caption_is_not_cut(encoder):
    assert encoder.caption_tokens("a cat").cut == encoder.caption_tokens("").cut == ""


def test_the_checkpoint_has_the_right_number_of_parameters(encoder):
    encoder.encode_captions(["load"])
    towers = encoder._towers()
    assert (
        sum(weight.numel() for weight in embedded_towers.load_image_tower().parameters()) == IMAGE_PARAMETERS
    )
    assert sum(weight.numel() for weight in towers.text.parameters()) == TEXT_PARAMETERS


def test_the_fused_image_tower_returns_what_the_whole_one_returns():
    fused, whole = (
        embedded_towers.load_image_tower().fuse_batch_norms(),
        embedded_towers.load_image_tower(),
    )
    for item in (*samples.sample_items()[:2], *samples.sample_items()[5:7]):  # wide, high and square
        views = torch.from_numpy(embedded_towers.pixels(item.seen_by(embedded_towers.VIEW)))
        with torch.inference_mode():
            pairs = zip(
                fused(views),
                whole(views),
                strict=True,
            )
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_checkpoint_is_known_without_torch():
    code = (
        "import sys; from clipdemo import load_encoder; encoder = load_encoder('embedded'); "
        "encoder.checkpoint, encoder.caption_tokens('a cat'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_input_gives_zero_rows(encoder):
    assert encoder.encode_images([]).shape == encoder.encode_captions([]).shape == (0, 386)
