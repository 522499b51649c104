"""Learns the head that the embedded model ships: ``python -m clipdemo.train.embedded pairs.csv``.

Five-fold cross-validation over the photographs of train and val gives the figures that settings are chosen by, and the
logit scale; the head is then learned on all of them. Photographs of the table's test split are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from clipdemo import similarity
from clipdemo.images.locate import folder_locator
from clipdemo.limits import Limits
from clipdemo.models.embedded import conse, projection
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.models.embedded.projection import Projection
from clipdemo.models.embedded.towers import FEATURE_DIM
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained.towers import EmbeddedImageTower
from clipdemo.scoring.retrieval import CUTS, rank_pairs, recall_at_k
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.tables.row import SPLITS
from clipdemo.tables.table import open_table
from clipdemo.train.dataset import read_pairs
from clipdemo.train.features import FeatureCache
from clipdemo.types import ImageItem

RIDGE = 1.0  # in units of the mean diagonal of the Gram matrix
PROTOTYPES = 512
ROUNDS = 15  # of k-means; it hardly moves after ten
FOLDS = 5
RIVALS = 64  # images a batch, where the logit scale is measured
SCALES = range(10, 81, 2)


def main() -> None:
    """Read the table, cross-validate, learn, write."""
    parser = argparse.ArgumentParser(prog="python -m clipdemo.train.embedded", description=__doc__)
    parser.add_argument("table", type=Path, help="image,caption rows with a split column")
    parser.add_argument("--output", type=Path, default=projection.HEAD, help="safetensors file to write")
    wanted = parser.parse_args()
    features, logits, sentences, pairs = read(wanted.table)
    scores, scale = cross_validate(features, logits, sentences, pairs)
    print(f"{FOLDS}-fold cross-validation, recall@1/5/10 in percent, text to image and image to text")
    for title, recalls in scores.items():
        print(f"{title:8}", *(f"{100 * recall:6.1f}" for recall in recalls))
    print(f"logit scale {scale:g}")
    head = learn(features, logits, sentences, pairs, scale)
    head.save(wanted.output)
    print(f"learned on {len(features)} photographs and {len(sentences)} captions: {wanted.output}")


def read(path: Path) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    """Features and class logits of images, rows of captions, and which belong together, of train and val."""
    limits, tower = Limits.from_environment(), EmbeddedImageTower()
    cache, cpu = FeatureCache(tower.fingerprint, tower.dim), torch.device("cpu")

    def take(items: Sequence[ImageItem]) -> None:
        rows = tower_features.image_features(tower, items, cpu).numpy()
        cache.add({item.sha256: row for item, row in zip(items, rows, strict=True)})

    table, locate = open_table(path.name, lambda: path.open("rb")), folder_locator(path.parent, limits)
    found = read_pairs(table, locate, limits, 0, cache.known, take, lambda *_: None)
    kept = found.pairs[found.split[found.pairs[:, 0]] != SPLITS.index("test")]
    images, image_of = np.unique(kept[:, 0], return_inverse=True)
    captions, caption_of = np.unique(kept[:, 1], return_inverse=True)
    features = cache.rows([found.sha256[image] for image in images])[:, :FEATURE_DIM]
    with torch.inference_mode():
        logits = tower.model._fc(torch.from_numpy(features[:, :1280].copy())).numpy()
    sentences = EmbeddedEncoder().encode_sentences([found.captions[caption] for caption in captions])
    return features, logits, sentences, np.stack([image_of, caption_of], axis=1)


def learn(
    features: FloatArray, logits: FloatArray, sentences: FloatArray, pairs: IntArray, scale: float
) -> Projection:
    """Fit the head in closed form; prototypes by k-means.

    Args:
        features: (n, 1792), as of ``projection.inputs``.
        logits: (n, 1000), as of ``projection.inputs``.
        sentences: (m, 384) unit rows of the text tower.
        pairs: (p, 2) image and caption.
        scale: what the softmax over cosines is to be fed with.
    """
    blocks, prior = projection.inputs(features, logits), conse.embed_images(logits)
    mean = np.concatenate([block.mean(axis=0) for block in blocks])
    # An input that hardly ever moves must not become the loudest.
    spread = np.concatenate([block.std(axis=0) + 0.1 * block.std(axis=0).mean() for block in blocks])
    centre = sentences.mean(axis=0)
    captions = similarity.unit(sentences - centre)
    targets = np.zeros((len(features), conse.DIM), np.float32)
    np.add.at(targets, pairs[:, 0], captions[pairs[:, 1]])
    targets = similarity.unit(targets)
    rows = projection.standardise(blocks, mean, spread)
    gram = rows @ rows.T  # (n, n): fewer photographs than inputs
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    weights = rows.T @ np.linalg.solve(gram, targets - targets.mean(axis=0))
    weights /= np.linalg.norm(rows @ weights, axis=1).mean()
    nothing = np.zeros((1, conse.DIM), np.float32)
    fixed = (mean, spread, weights, prior.mean(axis=0), centre)
    plain = Projection(*fixed, nothing, nothing, np.zeros(2, np.float32), np.array([scale], np.float32))
    images = plain.project(features, logits)
    near_images, near_captions = prototypes(images), prototypes(captions)
    crowded = (projection.density(images, near_captions), projection.density(captions, near_images))
    means = np.array([each.mean() for each in crowded], np.float32)
    return Projection(*fixed, near_images, near_captions, means, plain.logit_scale)


def prototypes(rows: FloatArray) -> FloatArray:
    """(``PROTOTYPES``, dim) unit rows that stand for all: spherical k-means; all rows where there are fewer."""
    rng = np.random.default_rng(0)
    centres = rows[rng.permutation(len(rows))[:PROTOTYPES]]
    for _ in range(ROUNDS):
        sums = np.zeros_like(centres)
        np.add.at(sums, (rows @ centres.T).argmax(axis=1), rows)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), centres)
    return centres


def cross_validate(
    features: FloatArray, logits: FloatArray, sentences: FloatArray, pairs: IntArray
) -> tuple[dict[str, list[float]], float]:
    """Six recalls of each fifth among itself, by ConSE and by the others' head, and the scale that fits its logits.

    Arguments as of :func:`learn`.
    """
    found: dict[str, list[tuple[FloatArray, FloatArray, IntArray]]] = {"ConSE": [], "learned": []}
    for rest, held in _folds(len(features)):
        images, captions, own = _only(held, pairs)
        learned_from, said, theirs = _only(rest, pairs)
        head = learn(features[learned_from], logits[learned_from], sentences[said], theirs, 1.0)
        before = conse.embed_images(logits[images]), similarity.unit(sentences[captions] - conse.centre())
        after = head.embed_images(features[images], logits[images]), head.embed_captions(sentences[captions])
        found["ConSE"].append((*before, own))
        found["learned"].append((*after, own))
    losses = [np.mean([_loss(*fold, scale) for fold in found["learned"]]) for scale in SCALES]
    return {title: _recalls(folds) for title, folds in found.items()}, float(SCALES[int(np.argmin(losses))])


def _folds(count: int) -> Iterator[tuple[IntArray, IntArray]]:
    """What is learned from, and what is held out."""
    order = np.random.default_rng(0).permutation(count)
    for held in np.array_split(order, FOLDS):
        yield np.setdiff1d(order, held), np.sort(held)


def _only(images: IntArray, pairs: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Some images, their captions, and the pairs of both by their new numbers."""
    some = pairs[np.isin(pairs[:, 0], images)]
    captions, caption_of = np.unique(some[:, 1], return_inverse=True)
    return images, captions, np.stack([np.searchsorted(images, some[:, 0]), caption_of], axis=1)


def _recalls(folds: Sequence[tuple[FloatArray, FloatArray, IntArray]]) -> list[float]:
    of_images, of_captions = (
        np.concatenate(ranks)
        for ranks in zip(*(rank_pairs(*fold).best_ranks() for fold in folds), strict=True)
    )
    return [recall_at_k(ranks, k) for ranks in (of_captions, of_images) for k in CUTS]


def _loss(images: FloatArray, captions: FloatArray, pairs: IntArray, scale: float) -> float:
    """Mean cross-entropy of images over one caption each of a few images."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(pairs)
    _, first = np.unique(shuffled[:, 0], return_index=True)  # one caption of each image
    losses = []
    for batch in np.array_split(rng.permutation(shuffled[first]), max(1, len(first) // RIVALS)):
        shares = similarity.softmax(scale * images[batch[:, 0]] @ captions[batch[:, 1]].T)
        losses.append(-np.log(np.maximum(np.diag(shares), 1e-12)).mean())
    return float(np.mean(losses))


if __name__ == "__main__":
    main()
