"""The head of the embedded model: the shipped file, local scaling, and training it again."""

import numpy as np
import pytest

from clipdemo import similarity
from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.embedded import conse, projection
from clipdemo.models.embedded.towers import FEATURE_DIM, VIEW, pixels
from clipdemo.train import embedded


def random_towers(count, classes=8):
    """Features, logits, sentences and pairs of images of a few kinds, two captions each."""
    rng, kinds = np.random.default_rng(0), np.arange(count) % classes
    features = np.abs(rng.normal(size=(classes, FEATURE_DIM)))[kinds] + 0.1 * rng.random((count, FEATURE_DIM))
    logits = rng.normal(size=(classes, 1000))[kinds] + rng.normal(size=(count, 1000))
    texts = rng.normal(size=(classes, conse.DIM))[kinds] + 0.3 * rng.normal(size=(count, conse.DIM))
    sentences = similarity.unit(np.repeat(texts, 2, axis=0) + 0.1 * rng.normal(size=(2 * count, conse.DIM)))
    pairs = np.stack([np.repeat(np.arange(count), 2), np.arange(2 * count)], axis=1)
    return features.astype(np.float32), logits.astype(np.float32), sentences, pairs


@pytest.fixture(scope="module")
def learned():
    features, logits, sentences, pairs = random_towers(40)
    return embedded.learn(features, logits, sentences, pairs, 20.0), features, logits, sentences


def test_the_shipped_head_gives_unit_rows_of_both_sides():
    head, (features, logits, sentences, _) = projection.shipped(), random_towers(5)
    for rows in (head.embed_images(features, logits), head.embed_captions(sentences)):
        assert rows.dtype == np.float32
        assert rows.shape[1] == projection.DIM
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert 1 < head.logit_scale[0] <= 100


def test_a_missing_head_is_reported_before_anything_loads(monkeypatch, tmp_path):
    from clipdemo.models.embedded.encoder import EmbeddedEncoder

    monkeypatch.setattr(projection, "HEAD", tmp_path / "head.safetensors")
    with pytest.raises(CorruptCheckpointError, match="missing or broken"):
        _ = EmbeddedEncoder().checkpoint


def test_the_shipped_head_is_better_than_the_untrained_one():
    import torch

    from clipdemo import samples
    from clipdemo.models.embedded import towers as embedded_towers
    from clipdemo.models.embedded.encoder import EmbeddedEncoder

    items, words = (
        samples.sample_items(),
        ["a cat", "a rocket", "a cup of coffee", "a flower", "an astronaut", "coins"],
    )
    encoder, tower = EmbeddedEncoder(), embedded_towers.load_image_tower()
    with torch.inference_mode():
        outputs = [
            tower(torch.from_numpy(embedded_towers.pixels(item.seen_by(embedded_towers.VIEW))))
            for item in items
        ]
    features, logits = (np.concatenate([output[side].numpy() for output in outputs]) for side in (0, 1))
    sentences, head = encoder.encode_sentences(words), projection.shipped()
    right = [[item.name.split(".")[0] in word for item in items] for word in words]

    def margin(images, captions):
        cosines = captions @ images.T
        best_right, best_wrong = (
            np.where(right, cosines, -1).max(axis=1),
            np.where(right, -1, cosines).max(axis=1),
        )
        return best_right - best_wrong

    learned = margin(head.embed_images(features, logits), head.embed_captions(sentences))
    untrained = margin(conse.embed_images(logits), similarity.unit(sentences - conse.centre()))
    assert (learned > 0).all()
    assert (learned > 0).sum() > (untrained > 0).sum()


@pytest.mark.parametrize("file", [None, b"", b"no array"])
def test_missing_or_broken_class_embeddings_are_reported(file, monkeypatch, tmp_path):
    monkeypatch.setattr(conse, "CLASS_EMBEDDINGS", tmp_path / "class_embeddings.npy")
    if file is None:
        with pytest.raises(CorruptCheckpointError, match=r"class_embeddings\.npy .* missing or broken"):
            conse.fingerprint()
    else:
        conse.CLASS_EMBEDDINGS.write_bytes(file)
    with pytest.raises(CorruptCheckpointError, match=r"class_embeddings\.npy .* missing or broken"):
        conse._classes.__wrapped__()


def test_a_trained_head_matches_images_and_captions_of_a_kind(learned):
    head, features, logits, sentences = learned
    cosines = head.embed_images(features, logits) @ head.embed_captions(sentences).T  # (40, 80)
    best = cosines.argmax(axis=1) // 2
    assert (best % 8 == np.arange(40) % 8).all()


def test_a_saved_head_is_read_again(learned, tmp_path):
    head, features, logits, sentences = learned
    head.save(tmp_path / "head.safetensors")
    again = projection.load(tmp_path / "head.safetensors")
    for before, after in (
        (head.embed_images(features, logits), again.embed_images(features, logits)),
        (head.embed_captions(sentences), again.embed_captions(sentences)),
    ):
        np.testing.assert_allclose(after, before, atol=5e-3)  # kept in half precision


@pytest.mark.parametrize("content", [b"", b"\x00" * 100])
def test_a_broken_head_gives_a_sentence(tmp_path, content):
    (tmp_path / "head.safetensors").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"head\.safetensors"):
        projection.load(tmp_path / "head.safetensors")


def test_a_missing_head_and_a_foreign_one_give_a_sentence(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(CorruptCheckpointError, match="missing or broken"):
        projection.load(tmp_path / "absent.safetensors")
    save_file({"weights": np.zeros((2, 2), np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CorruptCheckpointError, match="missing or broken"):
        projection.load(tmp_path / "foreign.safetensors")


def test_scaling_subtracts_the_excess_of_hubs_and_raises_nothing(learned):
    head, _, _, sentences = learned
    rows = head.embed_captions(sentences)
    plain = similarity.unit(sentences - head.caption_centre)
    image = np.zeros((1, projection.DIM), np.float32)
    image[0, :384], image[0, 385] = head.image_prototypes[0], projection.SHARED  # an image without excess
    excess = np.maximum(projection.density(plain, head.image_prototypes) - head.density[1], 0)
    assert 0 < (excess > 0).mean() < 1
    raw = plain @ head.image_prototypes[0] - projection.SCALING * excess
    lengths = np.sqrt(1 + projection.SHARED**2 + (projection.SCALING / projection.SHARED * excess) ** 2)
    np.testing.assert_allclose((rows @ image.T)[:, 0], raw / lengths, atol=1e-5)


def test_folds_are_disjoint_and_hold_out_each_photograph_once():
    held = [set(part.tolist()) for _, part in embedded._folds(23)]
    assert sorted(n for part in held for n in part) == list(range(23))
    for rest, part in embedded._folds(23):
        assert not set(rest.tolist()) & set(part.tolist())


def test_cross_validation_ranks_the_trained_head_above_conse():
    recalls, scale = embedded.cross_validate(*random_towers(60))
    assert recalls["learned"][2] > recalls["ConSE"][2]
    assert scale in embedded.SCALES


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((320, 320), (320, 320)),
        ((640, 480), (288, 384)),
        ((100, 400), (640, 160)),
        ((4000, 10), (160, 640)),
        ((1, 1), (320, 320)),
    ],
)
def test_the_tower_sees_the_whole_image_in_its_own_proportions(size, seen):
    from PIL import Image

    view = pixels(VIEW.of(Image.new("RGB", size, (255, 127, 0))))
    assert view.shape == (1, 3, *seen)
    assert view.dtype == np.float32
    np.testing.assert_allclose(view[0, :, 0, 0], [1, 0, -127 / 128])
