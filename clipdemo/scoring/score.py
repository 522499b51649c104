"""Scores and rankings from any ``Encoder``, independent of torch, pages and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipdemo import similarity
from clipdemo.errors import CaptionError, ImageError
from clipdemo.scoring.prompts import Query, Templates
from clipdemo.scoring.retrieval import rank_pairs
from clipdemo.similarity import FloatArray
from clipdemo.types import Encoder, Hit, ImageItem, PairScore, ScoreMatrix

AS_TYPED = Templates()


def score_matrix(
    encoder: Encoder,
    images: Sequence[ImageItem],
    captions: Sequence[str],
    *,
    templates: Templates = AS_TYPED,
) -> ScoreMatrix:
    """Score every image against every caption.

    Args:
        encoder: from ``load_encoder``.
        images: the rows.
        captions: the columns; each may contain weighted terms (see ``prompts.Query``).
        templates: prompt templates for each caption; several are ensembled.

    Returns:
        A matrix with ``cosine`` of shape (len(images), len(captions)).

    Raises:
        CaptionError: the weighted terms of a caption cannot be read or cancel out.
        ImageError: an image does not come from ``decode_image`` or ``fetch_image``.
        CheckpointError: the encoder's weights cannot be used.
    """
    _check(images, captions)
    queries = [Query.parse(caption) for caption in captions]
    rows = encode_queries(encoder, queries, templates)
    cosine = similarity.cosine(encoder.encode_images(images), rows)
    return ScoreMatrix(tuple(images), tuple(captions), cosine, encoder.checkpoint)


def score_pairs(encoder: Encoder, pairs: Sequence[tuple[ImageItem, str]]) -> list[PairScore]:
    """Score images with the captions that belong to them, and rank each pair among all its rivals.

    The rivals of a caption are the captions of other images; those of an image are the images of other
    captions.

    Args:
        encoder: from ``load_encoder``.
        pairs: (image, caption); repeated images and captions count once.

    Returns:
        One score per pair, in the given order.
    """
    _check([image for image, _ in pairs], [])
    if not pairs:
        return []
    images = list({image.sha256: image for image, _ in pairs}.values())
    captions = list(dict.fromkeys(caption for _, caption in pairs))
    row_of = {image.sha256: row for row, image in enumerate(images)}
    column_of = {caption: column for column, caption in enumerate(captions)}
    rows = encoder.encode_images(images)
    columns = encode_queries(encoder, [Query.plain(caption) for caption in captions])
    indices = [(row_of[image.sha256], column_of[caption]) for image, caption in pairs]
    ranked = rank_pairs(rows, columns, np.array(indices, dtype=np.int64))
    return [
        PairScore(
            position,
            float(ranked.cosines[position]),
            int(ranked.rank_of_caption[position]),
            int(ranked.rank_of_image[position]),
            bool(encoder.caption_tokens(caption).cut),
        )
        for position, (_, caption) in enumerate(pairs)
    ]


def _check(images: Sequence[ImageItem], captions: Sequence[str]) -> None:
    if isinstance(captions, str):
        raise CaptionError(f"captions is one string, {captions[:60]!r}; pass a list of captions")
    for position, image in enumerate(images):
        if not isinstance(image, ImageItem):
            raise ImageError(f"image {position} is a {type(image).__name__}; create it with decode_image")


def rank(cosines: FloatArray, background: FloatArray) -> list[Hit]:
    """Rank one query's cosines, best first; ties keep their input order.

    Args:
        cosines: (n,) cosine of the query with each candidate.
        background: cosines of unrelated pairs under the same checkpoint; any shape.
    """
    percentiles = similarity.percentile(cosines, background)
    return [
        Hit(position, int(index), float(cosines[index]), float(percentiles[index]))
        for position, index in enumerate(similarity.order(cosines), start=1)
    ]


def prompts_of(queries: Sequence[Query], templates: Templates) -> list[str]:
    """Return the texts to encode for ``queries``, each once."""
    terms = (term for query in queries for term in query.terms)
    return list(dict.fromkeys(prompt for term in terms for prompt in templates.fill(term.text)))


def encode_queries(encoder: Encoder, queries: Sequence[Query], templates: Templates = AS_TYPED) -> FloatArray:
    """Return (len(queries), dim) unit rows: each term in every template, averaged, weighted and summed.

    Template ensembling averages unit embeddings and scales the mean back to length one (Radford et al.
    2021, section 3.1.4).

    Raises:
        CaptionError: the terms of a query cancel out.
    """
    prompts = prompts_of(queries, templates)
    rows: dict[str, FloatArray] = dict(zip(prompts, encoder.encode_captions(prompts), strict=True))

    def term_row(text: str) -> FloatArray:
        filled = templates.fill(text)
        if len(filled) == 1:
            return rows[filled[0]]
        return similarity.unit(np.mean([rows[prompt] for prompt in filled], axis=0))

    combined = []
    for query in queries:
        total = sum(
            (term.weight * term_row(term.text).astype(np.float64) for term in query.terms),
            start=np.zeros(encoder.checkpoint.dim),
        )
        if np.linalg.norm(total) < 1e-6:
            raise query.cancelled()
        combined.append(total)
    if not combined:
        return np.zeros((0, encoder.checkpoint.dim), dtype=np.float32)
    return similarity.unit(np.stack(combined))


@dataclass(frozen=True, eq=False)
class Background:
    """Cosines of unrelated pairs under one checkpoint and template set, the reference for a score.

    Attributes:
        captions: (n,) of sample images with neutral captions, ascending.
        images: (m,) of sample images with each other, ascending.
    """

    captions: FloatArray
    images: FloatArray


def background(
    encoder: Encoder,
    images: Sequence[ImageItem],
    captions: Sequence[str],
    templates: Templates = AS_TYPED,
) -> Background:
    """Score sample images against neutral captions and against each other."""
    rows = encoder.encode_images(images)
    queries = [Query.plain(caption) for caption in captions]
    with_captions = similarity.cosine(rows, encode_queries(encoder, queries, templates))
    with_images = similarity.cosine(rows, rows)[~np.eye(len(rows), dtype=bool)]
    return Background(np.sort(with_captions, axis=None), np.sort(with_images))
