import subprocess
import sys

import numpy as np
import pytest

from clipdemo import load_encoder, samples
from clipdemo.models.cache import CachedEncoder, EmbeddingStore, FairLock, caption_key
from clipdemo.models.embedded import conse

STALE = "the shipped embeddings are stale; run: python -m clipdemo.samples"


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


def test_the_shipped_embeddings_have_the_fingerprint_of_the_installed_model(encoder):
    assert samples.preload(EmbeddingStore(10**6)), STALE


def test_the_shipped_embeddings_equal_those_of_the_installed_model(encoder):
    store = EmbeddingStore(10**6)
    samples.preload(store)
    cached = CachedEncoder(encoder, store, FairLock())
    items, captions = samples.sample_items(), samples.SAMPLE_CAPTIONS + samples.NEUTRAL_CAPTIONS
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


def test_the_shipped_class_embeddings_equal_those_of_the_text_tower(encoder):
    names = conse.CLASS_NAMES.read_text("utf-8").splitlines()[:50]
    rows = encoder.encode_sentences([conse.CLASS_TEMPLATE.format(name) for name in names])
    np.testing.assert_allclose(
        np.load(conse.CLASS_EMBEDDINGS)[:50].astype(np.float32), rows, atol=2e-3, err_msg=STALE
    )


def test_stale_embeddings_are_not_loaded(monkeypatch, tmp_path):
    with np.load(samples.EMBEDDINGS) as saved:
        changed = dict(saved) | {"fingerprint": np.array("of another model")}
    np.savez(tmp_path / "embedded.npz", **changed)
    monkeypatch.setattr(samples, "EMBEDDINGS", tmp_path / "embedded.npz")
    store = EmbeddingStore(10**6)
    assert not samples.preload(store)
    assert store.nbytes == 0


def test_a_dozen_photographs_or_more_each_with_its_licence():
    assert len(samples.samples()) >= 12
    for sample in samples.samples():
        assert (samples.SAMPLES / sample.file).is_file()
        assert sample.licence
        assert sample.author
        assert sample.source.startswith("http")
    shipped = {file.name for file in samples.SAMPLES.glob("*.jpg")}
    assert shipped == {sample.file for sample in samples.samples()}


def test_the_sets_together_are_the_gallery():
    names = [item.name for name in samples.sample_sets() for item in samples.sample_items(name)]
    assert sorted(names) == sorted(item.name for item in samples.sample_items())


def test_the_first_ranking_needs_no_torch():
    code = (
        "import sys; from clipdemo import samples; from clipdemo.models import cache, loader; from "
        "clipdemo.scoring import score\nstore = cache.EmbeddingStore(10**8); samples.preload(store)\n"
        "encoder = loader.Loader(store).encoder('embedded'); items = samples.sample_items()\n"
        "score.score_matrix(encoder, items, samples.SAMPLE_CAPTIONS)\nscore.background(encoder, items, "
        "samples.NEUTRAL_CAPTIONS)\nassert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
