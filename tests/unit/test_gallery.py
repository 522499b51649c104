import subprocess
import sys

import numpy as np
import pytest

from clipdemo import conse, gallery, load_encoder
from clipdemo.cache import CachedEncoder, EmbeddingStore, Turns, caption_key

STALE = "the shipped embeddings are stale; run: python -m clipdemo.gallery"


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


def test_the_shipped_embeddings_carry_the_fingerprint_of_the_model_installed(encoder):
    assert gallery.preload(EmbeddingStore(10**6)), STALE


def test_the_shipped_embeddings_are_what_the_model_gives_now(encoder):
    store = EmbeddingStore(10**6)
    gallery.preload(store)
    cached = CachedEncoder(encoder, store, Turns())
    items, captions = gallery.sample_items(), gallery.SAMPLE_CAPTIONS + gallery.NEUTRAL_CAPTIONS
    assert cached.missing(items) == [], STALE
    assert len(store.find(caption_key(encoder.checkpoint, caption) for caption in captions)) == len(
        captions
    ), STALE
    # Not bit for bit: other processors add in another order.
    np.testing.assert_allclose(
        cached.encode_images(items), encoder.encode_images(items), atol=2e-3, err_msg=STALE
    )
    np.testing.assert_allclose(
        cached.encode_captions(captions), encoder.encode_captions(captions), atol=2e-3, err_msg=STALE
    )


def test_the_shipped_class_embeddings_are_what_the_text_tower_gives_now(encoder):
    names = conse.CLASS_NAMES.read_text("utf-8").splitlines()[:50]
    rows = encoder.encode_sentences([conse.CLASS_TEMPLATE.format(name) for name in names])
    np.testing.assert_allclose(
        np.load(conse.CLASS_EMBEDDINGS)[:50].astype(np.float32), rows, atol=2e-3, err_msg=STALE
    )


def test_stale_embeddings_are_not_loaded(monkeypatch, tmp_path):
    with np.load(gallery.EMBEDDINGS) as saved:
        changed = dict(saved) | {"fingerprint": np.array("of another model")}
    np.savez(tmp_path / "embedded.npz", **changed)
    monkeypatch.setattr(gallery, "EMBEDDINGS", tmp_path / "embedded.npz")
    store = EmbeddingStore(10**6)
    assert not gallery.preload(store)
    assert store.nbytes == 0


def test_a_dozen_photographs_or_more_each_with_its_licence():
    assert len(gallery.samples()) >= 12
    for sample in gallery.samples():
        assert (gallery.SAMPLES / sample.file).is_file()
        assert sample.licence
        assert sample.author
        assert sample.source.startswith("http")
    shipped = {file.name for file in gallery.SAMPLES.glob("*.jpg")}
    assert shipped == {sample.file for sample in gallery.samples()}


def test_the_sets_together_are_the_gallery():
    names = [item.name for name in gallery.sample_sets() for item in gallery.sample_items(name)]
    assert sorted(names) == sorted(item.name for item in gallery.sample_items())


def test_the_first_ranking_needs_no_torch():
    code = (
        "import sys; from clipdemo import gallery, scoring, loading, cache\n"
        "store = cache.EmbeddingStore(10**8); gallery.preload(store)\n"
        "encoder = loading.Loader(store).encoder('embedded'); items = gallery.sample_items()\n"
        "scoring.score_matrix(encoder, items, gallery.SAMPLE_CAPTIONS)\n"
        "scoring.background(encoder, items, gallery.NEUTRAL_CAPTIONS)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
