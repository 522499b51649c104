"""The alternatives a user would otherwise pick, each used as its own documentation shows.

Every contender runs in a process of its own (``benchmarks.worker``), so that none warms up another and the
memory of each can be read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from benchmarks.web import Pair, loopback

BATCH = 32
PAIRS_TIMED = 16  # pairs the one-at-a-time loop really runs; its figure is scaled to all of them


class Contender:
    """Encodes images and captions in batches and caches nothing, unless a subclass says otherwise.

    Attributes:
        caches: whether embeddings are kept between questions.
        scale: factor for the last figure if only a part of the work was run.
    """

    caches = False
    scale = 1.0

    def images(self, images: Sequence[Image.Image]) -> Any:
        """Return (n, dim) unit embeddings."""
        raise NotImplementedError("it returns scores, not embeddings")

    def captions(self, captions: Sequence[str]) -> Any:
        """Return (n, dim) unit embeddings."""
        raise NotImplementedError("it returns scores, not embeddings")

    def forget(self) -> None:
        """Empty the cache."""

    def decode(self, files: Sequence[bytes]) -> list[Any]:
        """Decode files to the pixels that stay in memory between two questions."""
        return [Image.open(io.BytesIO(data)).convert("RGB") for data in files]

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """Return (n_images, n_captions) scores of images from ``decode``."""
        return self.images(images) @ self.captions(captions).T

    def cold(self, files: Sequence[bytes], captions: Sequence[str]) -> Any:
        """Score files: decode, encode, compare."""
        return self.scores(self.decode(files), captions)

    def embed(self, files: Sequence[bytes]) -> Any:
        """Encode files: decode, encode."""
        return self.images(self.decode(files))

    def rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        """Return the cosine of each row of a table, fetching its images."""
        return np.concatenate([self._batch_rows(port, batch) for batch in _batches(pairs)])

    def _batch_rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        files = [requests.get(loopback(port, pair.url), timeout=10).content for pair in pairs]
        images = self.images(self.decode(files))
        captions = self.captions([pair.caption for pair in pairs])
        return np.einsum("nd,nd->n", images, captions)


class Pipeline(Contender):
    """The zero-shot-image-classification pipeline of transformers, in batches."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import pipeline

        self._pipe = pipeline("zero-shot-image-classification", model=str(checkpoint), device="cpu")

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """Return shares, as dictionaries sorted by score."""
        return self._pipe(list(images), candidate_labels=list(captions), batch_size=16)


class SentenceTransformersClip(Contender):
    """sentence-transformers with a CLIP checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(checkpoint), device="cpu")

    def images(self, images: Sequence[Image.Image]) -> Any:
        """Return (n, dim) unit embeddings."""
        return self._model.encode(list(images), batch_size=BATCH, normalize_embeddings=True)

    def captions(self, captions: Sequence[str]) -> Any:
        """Return (n, dim) unit embeddings."""
        return self._model.encode(list(captions), batch_size=BATCH, normalize_embeddings=True)


class OpenClip(Contender):
    """open_clip with its own implementation of ViT-B/32 and random weights."""

    def __init__(self, _checkpoint: Path) -> None:
        import torch

        self._operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):  # some CPU builds of torchvision lack them and fail to import
            if not hasattr(torch.ops.torchvision, name):
                self._operators.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import open_clip

        self._torch = torch
        name = "ViT-B-32-quickgelu"
        self._model, _, self._prepare = open_clip.create_model_and_transforms(name)
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(name)

    def images(self, images: Sequence[Image.Image]) -> Any:
        """Return (n, dim) unit embeddings."""
        rows = []
        with self._torch.inference_mode():
            for batch in _batches(images):
                pixels = self._torch.stack([self._prepare(image) for image in batch])
                rows.append(self._model.encode_image(pixels, normalize=True))
        return self._torch.cat(rows).numpy()

    def captions(self, captions: Sequence[str]) -> Any:
        """Return (n, dim) unit embeddings."""
        with self._torch.inference_mode():
            rows = [
                self._model.encode_text(self._tokenize(batch), normalize=True) for batch in _batches(captions)
            ]
            return self._torch.cat(rows).numpy()


class PairLoop(Contender):
    """One image and one caption through the whole model at a time, as older scripts do."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import CLIPModel, CLIPProcessor

        self._torch = torch
        self._model = CLIPModel.from_pretrained(checkpoint).eval()
        self._processor = CLIPProcessor.from_pretrained(checkpoint)

    def decode(self, files: Sequence[bytes]) -> list[Any]:
        """Return the files: they are opened anew for every pair."""
        return list(files)

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """Score the first ``PAIRS_TIMED`` pairs."""
        pairs = [(image, caption) for image in images for caption in captions]
        self.scale = max(1.0, len(pairs) / PAIRS_TIMED)
        return [self._score(*pair) for pair in pairs[:PAIRS_TIMED]]

    def rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        """Score the first ``PAIRS_TIMED`` rows."""
        self.scale = max(1.0, len(pairs) / PAIRS_TIMED)
        return [
            self._score(requests.get(loopback(port, pair.url), timeout=10).content, pair.caption)
            for pair in pairs[:PAIRS_TIMED]
        ]

    def _score(self, file: bytes, caption: str) -> float:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        inputs = self._processor(text=[caption], images=image, return_tensors="pt", padding=True)
        with self._torch.inference_mode():
            return float(self._model(**inputs).logits_per_image.item())


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
