"""Fits the shipped head of the embedded model: ``python -m clipdemo.train.embedded pairs.csv``.

Five-fold cross-validation on the images of train and val measures the settings and selects the logit scale.
The head is then fitted to all of these images. Images of the test split are not used.
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
from clipdemo.regular import open_regular
from clipdemo.scoring.retrieval import CUTS, rank_pairs, recall_at_k
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.tables.row import SPLITS
from clipdemo.tables.table import open_table
from clipdemo.train.dataset import ImageReader, read_pairs
from clipdemo.train.features import image_cache
from clipdemo.types import ImageItem

RIDGE = 1.0  # in units of the mean diagonal of the Gram matrix
PROTOTYPES = 512
ROUNDS = 15  # of k-means; it hardly changes after ten
FOLDS = 5
RIVALS = 64  # images per batch for the loss that selects the logit scale
SCALES = range(10, 81, 2)


def main() -> None:
    """Read the table, cross-validate, fit the head and write it."""
    parser = argparse.ArgumentParser(prog="python -m clipdemo.train.embedded", description=__doc__)
    parser.add_argument("table", type=Path, help="image,caption rows with a split column")
    parser.add_argument("--output", type=Path, default=projection.HEAD, help="safetensors file to write")
    options = parser.parse_args()
    features, logits, sentences, pairs = read(options.table)
    scores, scale = cross_validate(features, logits, sentences, pairs)
    print(f"{FOLDS}-fold cross-validation, recall@1/5/10 in percent, text to image and image to text")
    for title, recalls in scores.items():
        print(f"{title:8}", *(f"{100 * recall:6.1f}" for recall in recalls))
    print(f"logit scale {scale:g}")
    head = learn(features, logits, sentences, pairs, scale)
    head.save(options.output)
    print(f"fitted to {len(features)} images and {len(sentences)} captions: {options.output}")


def read(path: Path) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    """Read the train and val splits.

    Returns:
        (n, 1792) features and (n, 1000) class logits of images, (m, 384) unit rows of captions, and (p, 2)
        indices of the image and caption of each pair.
    """
    limits, tower = Limits.from_environment(), EmbeddedImageTower()
    cache, cpu = image_cache(tower), torch.device("cpu")

    def encode(items: Sequence[ImageItem]) -> None:
        rows = tower_features.image_features(tower, items, cpu).numpy()
        cache.add({item.sha256: row for item, row in zip(items, rows, strict=True)})

    table, locate = open_table(path.name, lambda: open_regular(path)), folder_locator(path.parent, limits)
    reader = ImageReader(locate, limits, lambda *_: None, cache.known, encode, tower.view)
    data = read_pairs(table, reader, seed=0)
    pairs = data.pairs[data.split[data.pairs[:, 0]] != SPLITS.index("test")]
    images, image_of = np.unique(pairs[:, 0], return_inverse=True)
    captions, caption_of = np.unique(pairs[:, 1], return_inverse=True)
    features = cache.rows([data.sha256[image] for image in images])[:, :FEATURE_DIM]
    with torch.inference_mode():
        logits = tower.model.classify(torch.from_numpy(features[:, :1280].copy())).numpy()
    sentences = EmbeddedEncoder().encode_sentences([data.captions[caption] for caption in captions])
    return features, logits, sentences, np.stack([image_of, caption_of], axis=1)


def learn(
    features: FloatArray, logits: FloatArray, sentences: FloatArray, pairs: IntArray, scale: float
) -> Projection:
    """Fit the head in closed form; prototypes by k-means.

    Args:
        features: (n, 1792), as for ``projection.inputs``.
        logits: (n, 1000), as for ``projection.inputs``.
        sentences: (m, 384) unit rows of the text tower.
        pairs: (p, 2) indices of image and caption.
        scale: logit scale to store in the head.
    """
    blocks, prior = projection.inputs(features, logits), conse.embed_images(logits)
    mean = np.concatenate([block.mean(axis=0) for block in blocks])
    # The added deviation keeps almost constant inputs from dominating.
    spread = np.concatenate([block.std(axis=0) + 0.1 * block.std(axis=0).mean() for block in blocks])
    centre = sentences.mean(axis=0)
    captions = similarity.unit(sentences - centre)
    targets = np.zeros((len(features), conse.DIM), np.float32)
    np.add.at(targets, pairs[:, 0], captions[pairs[:, 1]])
    targets = similarity.unit(targets)
    rows = projection.standardise(blocks, mean, spread)
    gram = rows @ rows.T  # (n, n): there are fewer images than inputs
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    weights = rows.T @ np.linalg.solve(gram, targets - targets.mean(axis=0))
    weights /= np.linalg.norm(rows @ weights, axis=1).mean()
    empty = np.zeros((1, conse.DIM), np.float32)
    fixed = (mean, spread, weights, prior.mean(axis=0), centre)
    uncorrected = Projection(*fixed, empty, empty, np.zeros(2, np.float32), np.array([scale], np.float32))
    images = uncorrected.project(features, logits)
    image_prototypes, caption_prototypes = prototypes(images), prototypes(captions)
    image_density = projection.density(images, caption_prototypes)
    caption_density = projection.density(captions, image_prototypes)
    means = np.array([image_density.mean(), caption_density.mean()], np.float32)
    return Projection(*fixed, image_prototypes, caption_prototypes, means, uncorrected.logit_scale)


def prototypes(rows: FloatArray) -> FloatArray:
    """Return (``PROTOTYPES``, dim) unit rows, the centres of spherical k-means, or all rows if fewer."""
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
    """Measure ConSE and the fitted head on held-out folds.

    Arguments as of :func:`learn`.

    Returns:
        Title -> six recalls, each fold searched independently; and the logit scale with the lowest loss.
    """
    folds: dict[str, list[tuple[FloatArray, FloatArray, IntArray]]] = {"ConSE": [], "learned": []}
    for fitted, held_out in _folds(len(features)):
        images, captions, own_pairs = _subset(held_out, pairs)
        fit_images, fit_captions, fit_pairs = _subset(fitted, pairs)
        head = learn(features[fit_images], logits[fit_images], sentences[fit_captions], fit_pairs, 1.0)
        prior = conse.embed_images(logits[images]), similarity.unit(sentences[captions] - conse.centre())
        learned = (
            head.embed_images(features[images], logits[images]),
            head.embed_captions(sentences[captions]),
        )
        folds["ConSE"].append((*prior, own_pairs))
        folds["learned"].append((*learned, own_pairs))
    losses = [np.mean([_loss(*fold, scale) for fold in folds["learned"]]) for scale in SCALES]
    best_scale = float(SCALES[int(np.argmin(losses))])
    return {title: _recalls(results) for title, results in folds.items()}, best_scale


def _folds(count: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the indices to fit to and the held-out indices of each fold."""
    order = np.random.default_rng(0).permutation(count)
    for held_out in np.array_split(order, FOLDS):
        yield np.setdiff1d(order, held_out), np.sort(held_out)


def _subset(images: IntArray, pairs: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return sorted images, their captions, and their pairs as indices into both."""
    own_pairs = pairs[np.isin(pairs[:, 0], images)]
    captions, caption_of = np.unique(own_pairs[:, 1], return_inverse=True)
    return images, captions, np.stack([np.searchsorted(images, own_pairs[:, 0]), caption_of], axis=1)


def _recalls(folds: Sequence[tuple[FloatArray, FloatArray, IntArray]]) -> list[float]:
    of_images, of_captions = (
        np.concatenate(ranks)
        for ranks in zip(*(rank_pairs(*fold).best_ranks() for fold in folds), strict=True)
    )
    return [recall_at_k(ranks, k) for ranks in (of_captions, of_images) for k in CUTS]


def _loss(images: FloatArray, captions: FloatArray, pairs: IntArray, scale: float) -> float:
    """Return the mean cross-entropy of images over one caption of each image of a batch."""
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
