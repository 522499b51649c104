"""Real checkpoints, through ``save_pretrained`` and ``from_pretrained``."""

import io
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image
from tiny_checkpoints import COLOURS
from transformers import CLIPModel, SiglipModel

from clipdemo import score_matrix
from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    ImageError,
    UnsafeWeightsError,
    UnsupportedCheckpointError,
)
from clipdemo.images.decode import decode_image
from clipdemo.models.clip.encoder import Origin, TransformersEncoder

CAPTIONS = [f"a {colour} square" for colour in COLOURS]


def load(folder, **options):
    return TransformersEncoder(folder, Origin(str(folder), "local", "f" * 64, "folder"), **options)


def test_a_trained_checkpoint_ranks_every_colour_first(colour_clip, colour_items):
    matrix = score_matrix(load(colour_clip), colour_items, CAPTIONS)
    assert (matrix.cosine.argmax(axis=0) == np.arange(len(COLOURS))).all()
    assert (matrix.cosine.argmax(axis=1) == np.arange(len(COLOURS))).all()


@pytest.mark.parametrize(
    ("fixture", "model_class"), [("colour_clip", CLIPModel), ("tiny_siglip", SiglipModel)]
)
def test_logits_equal_those_of_the_whole_model(fixture, model_class, colour_items, request):
    folder = request.getfixturevalue(fixture)
    encoder = load(folder)
    captions = ["a red square", "blue", "a green green square"]
    ours = score_matrix(encoder, colour_items, captions).logits()
    batch = encoder.caption_inputs(captions) | encoder.image_inputs(
        [item.seen_by(encoder.view) for item in colour_items]
    )
    with torch.inference_mode():
        theirs = model_class.from_pretrained(folder).eval()(**batch).logits_per_image.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_embeddings_are_float32_of_unit_length(colour_clip, colour_items):
    encoder = load(colour_clip)
    for rows in (encoder.encode_images(colour_items), encoder.encode_captions(CAPTIONS)):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_padding_to_the_longest_caption_leaves_embeddings_unchanged(colour_clip):
    encoder = load(colour_clip)
    alone = encoder.encode_captions(["red"])
    beside_a_long_one = encoder.encode_captions(["red", "a very long caption about a blue square"])[:1]
    np.testing.assert_allclose(alone, beside_a_long_one, atol=1e-5)


def test_siglip_captions_are_lower_cased(tiny_siglip):
    encoder = load(tiny_siglip)
    np.testing.assert_array_equal(
        encoder.encode_captions(["A RED square"]), encoder.encode_captions(["a red square"])
    )


def test_siglip_has_a_bias_and_a_sigmoid_per_pair(tiny_siglip, colour_items):
    matrix = score_matrix(load(tiny_siglip), colour_items, ["red"])
    assert matrix.checkpoint.logit_bias is not None
    expected = 1 / (1 + np.exp(-matrix.logits().astype(np.float64)))
    np.testing.assert_allclose(matrix.probabilities(), expected, rtol=1e-5)


def test_a_long_caption_is_cut_and_the_tail_is_named(colour_clip):
    encoder = load(colour_clip)
    caption = "abcdefghij" * 10
    tokens = encoder.caption_tokens(caption)
    assert tokens.used == 102  # one token a letter, and two special ones
    assert tokens.limit == 77
    assert tokens.kept + tokens.cut == caption
    assert len(tokens.kept) == 75
    np.testing.assert_allclose(
        encoder.encode_captions([caption])[0] @ encoder.encode_captions([caption + "tail"])[0], 1, atol=1e-5
    )


def test_a_short_caption_is_not_cut(colour_clip):
    tokens = load(colour_clip).caption_tokens("red")
    assert (tokens.used, tokens.kept, tokens.cut) == (5, "red", "")


def test_the_checkpoint_describes_itself(colour_clip):
    checkpoint = load(colour_clip).checkpoint
    assert (checkpoint.dim, checkpoint.image_size, checkpoint.context_length) == (16, 32, 77)
    assert checkpoint.logit_bias is None
    assert checkpoint.parameters == sum(
        p.numel() for p in CLIPModel.from_pretrained(colour_clip).parameters()
    )


def test_an_empty_input_gives_zero_rows(colour_clip):
    encoder = load(colour_clip)
    assert encoder.encode_images([]).shape == encoder.encode_captions([]).shape == (0, 16)


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_pickled_weights_are_refused_unless_allowed(colour_clip, tmp_path):
    folder = copied(colour_clip, tmp_path)
    state = CLIPModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeWeightsError, match="safetensors"):
        load(folder)
    assert load(folder, allow_pickle=True).encode_captions(["red"]).shape == (1, 16)


class _Evil:
    def __reduce__(self):
        return (print, ("this code must never run",))


def test_a_pickle_that_carries_code_is_not_run(colour_clip, tmp_path, capsys):
    folder = copied(colour_clip, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": _Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CorruptCheckpointError):
        load(folder, allow_pickle=True)
    assert "never run" not in capsys.readouterr().out


def test_truncated_weights_give_a_sentence(colour_clip, tmp_path):
    folder = copied(colour_clip, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CorruptCheckpointError, match="broken or incomplete"):
        load(folder)


def test_weights_that_do_not_fit_the_configuration_are_refused(colour_clip, tmp_path):
    folder = copied(colour_clip, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptCheckpointError, match="lacks weights"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (None, CheckpointNotFoundError),
        ("{not json", CorruptCheckpointError),
        ('{"model_type": "bert"}', UnsupportedCheckpointError),
        ("[]", UnsupportedCheckpointError),
    ],
)
def test_a_folder_without_a_dual_encoder_is_refused(tmp_path, config, error):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(error):
        load(tmp_path)


def test_code_in_a_checkpoint_is_never_run(colour_clip, tmp_path):
    folder = copied(colour_clip, tmp_path)
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        file = folder / name
        config = json.loads(file.read_text())
        config["auto_map"] = dict.fromkeys(("AutoModel", "AutoTokenizer", "AutoImageProcessor"), "evil.Evil")
        file.write_text(json.dumps(config))
    load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("fixture", ["colour_clip", "tiny_siglip"])
def test_counting_tokens_in_another_thread_leaves_embeddings_unchanged(fixture, request):
    encoder = load(request.getfixturevalue(fixture))
    right = encoder.encode_captions(["a red square"])
    stop = threading.Event()

    def sidebar():
        while not stop.is_set():
            encoder.caption_tokens("a blue square " * 20)

    thread = threading.Thread(target=sidebar)
    thread.start()
    try:
        for _ in range(150):
            np.testing.assert_allclose(encoder.encode_captions(["a red square"]), right, atol=1e-5)
    finally:
        stop.set()
        thread.join(10)


def test_a_strip_one_pixel_wide_does_not_fill_the_memory(colour_clip, tiny_siglip2, item_of):
    strips = [item_of(Image.new("RGB", size)) for size in ((1536, 1), (1, 1536))]
    for folder in (colour_clip, tiny_siglip2):
        assert np.isfinite(load(folder).encode_images(strips)).all()


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("fixture", ["colour_clip", "tiny_siglip"])
@pytest.mark.parametrize("size", [(90, 60), (33, 100), (32, 32), (1, 50), (700, 20)], ids=str)
def test_an_image_decoded_for_the_encoder_has_the_embedding_of_the_whole_picture(
    fixture, size, item_of, request
):
    encoder, image = load(request.getfixturevalue(fixture)), noise(size)
    prepared = decode_image(png(image), "x", view=encoder.view)
    np.testing.assert_array_equal(encoder.encode_images([prepared]), encoder.encode_images([item_of(image)]))


def test_an_image_decoded_for_another_checkpoint_is_refused(colour_clip, tiny_siglip, tiny_siglip2):
    clip, siglip, flexible = load(colour_clip), load(tiny_siglip), load(tiny_siglip2)
    assert flexible.view is None  # only its processor knows
    prepared = decode_image(png(noise((90, 60))), "x", view=clip.view)
    for encoder in (siglip, flexible):
        if encoder.view != clip.view:
            with pytest.raises(ImageError, match="another checkpoint"):
                encoder.encode_images([prepared])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"model_type": "clip", "projection_dim": "x"}'),
        ("config.json", '{"model_type": "clip", "text_config": 5}'),
        ("config.json", "[" * 200_000),
        ("tokenizer.json", "5"),
        ("tokenizer_config.json", "[]"),
        ("preprocessor_config.json", "[]"),
    ],
)
def test_a_malformed_checkpoint_gives_a_sentence(colour_clip, tmp_path, file, content):
    folder = copied(colour_clip, tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError):
        load(folder)
