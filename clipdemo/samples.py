"""The sample gallery: photographs, sample captions, neutral captions, and their embeddings.

``assets/samples`` contains the photographs with their licences and the embeddings under the embedded model,
so that a first visit shows a ranking before any model is loaded. Run ``python -m clipdemo.samples`` to
rebuild the embeddings when the embedded model or the samples change.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from clipdemo.images.decode import decode_image
from clipdemo.models.cache import EmbeddingStore, caption_key, image_key
from clipdemo.models.embedded import conse
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.types import ImageItem

_PACKAGED = Path(__file__).parent / "assets" / "samples"  # exists in a wheel, not in a checkout
SAMPLES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "assets" / "samples"
EMBEDDINGS = SAMPLES / "embedded.npz"

SAMPLE_CAPTIONS = (
    "a cat looking at the camera",
    "a cup of coffee on a wooden table",
    "a rocket on its launch pad at night",
)

# Everyday scenes that the samples do not show: the scores of unrelated captions.
NEUTRAL_CAPTIONS = (
    "a dog running along the beach",
    "a bowl of fruit on a kitchen counter",
    "two children playing football in a park",
    "a red bus driving through a busy street",
    "a snowy mountain under a clear sky",
    "a woman reading a book on a sofa",
    "a plate of spaghetti with tomato sauce",
    "a group of friends sitting around a campfire",
    "an old man feeding pigeons",
    "a yellow taxi in the rain",
    "a sailing boat on a calm sea",
    "a herd of elephants at a water hole",
    "a laptop and a notebook on a desk",
    "a bicycle leaning against a fence",
    "a crowd at a concert with stage lights",
    "a train arriving at a station",
    "a chef cutting vegetables",
    "a field of sunflowers in summer",
    "a girl riding a horse",
    "a swimming pool beside a hotel",
    "a birthday cake with candles",
    "a wooden bridge over a river",
    "a man playing the guitar",
    "a supermarket shelf full of cereal boxes",
    "a squirrel eating a nut",
    "an aeroplane taking off",
    "a living room with a television",
    "a skier going down a slope",
    "a market stall selling fish",
    "a desert road at sunset",
    "a baby sleeping in a cot",
    "a lighthouse on a rocky coast",
    "a tennis player hitting a ball",
    "a bouquet of roses in a vase",
    "a tractor ploughing a field",
    "a flock of sheep on a hill",
    "a bathroom with white tiles",
    "a pizza on a paper plate",
    "a forest path covered with leaves",
    "a traffic light at a crossing",
)


@dataclass(frozen=True)
class Sample:
    """One photograph of the gallery with its author and licence."""

    file: str
    title: str
    sets: str
    author: str
    licence: str
    source: str


@cache
def samples() -> tuple[Sample, ...]:
    """Return the photographs of the gallery, in order."""
    with (SAMPLES / "gallery.csv").open(encoding="utf-8", newline="") as table:
        return tuple(Sample(**row) for row in csv.DictReader(table))


def sample_sets() -> list[str]:
    """Return the names of the sets to choose from."""
    return list(dict.fromkeys(sample.sets for sample in samples()))


@cache
def sample_items(sample_set: str | None = None) -> tuple[ImageItem, ...]:
    """Return the decoded photographs of a set, or of all sets; decoded once per process."""
    if sample_set is not None:
        files = {sample.file for sample in samples() if sample.sets == sample_set}
        return tuple(item for item in sample_items() if item.name in files)
    return tuple(
        decode_image((SAMPLES / sample.file).read_bytes(), sample.file, source="sample")
        for sample in samples()
    )


def preload(store: EmbeddingStore) -> bool:
    """Put the shipped embeddings into ``store``.

    Returns:
        Whether they match the installed embedded model; otherwise they are not loaded.
    """
    checkpoint = EmbeddedEncoder().checkpoint
    with np.load(EMBEDDINGS, allow_pickle=False) as saved:
        if str(saved["fingerprint"]) != checkpoint.fingerprint:
            return False
        images = zip(saved["sha256"].tolist(), saved["images"], strict=True)
        captions = zip(SAMPLE_CAPTIONS + NEUTRAL_CAPTIONS, saved["captions"], strict=True)
        store.add({image_key(checkpoint, sha256): row for sha256, row in images})
        store.add({caption_key(checkpoint, caption): row for caption, row in captions})
    return True


def rebuild() -> None:
    """Rebuild the embedded model's class embeddings and the samples' embeddings."""
    conse.build(EmbeddedEncoder().encode_sentences)
    encoder = EmbeddedEncoder()
    items = sample_items()
    np.savez_compressed(
        EMBEDDINGS,
        fingerprint=encoder.checkpoint.fingerprint,
        sha256=[item.sha256 for item in items],
        images=encoder.encode_images(items),
        captions=encoder.encode_captions(SAMPLE_CAPTIONS + NEUTRAL_CAPTIONS),
    )


if __name__ == "__main__":
    rebuild()
