"""What a user would otherwise pick, each used the way its own documentation shows, and clipdemo beside them.

Every contender lives in a process of its own (``worker``) and is loaded there, so none warms up another, and
each one's memory can be read.
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
PAIRS_TIMED = 16  # of the one-pair-at-a-time loop; the rest is scaled


class Contender:
    """Encodes images and captions in batches and remembers nothing, unless a child says otherwise.

    Attributes:
        remembers: whether what was encoded once is kept.
        scale: by how much the last figure must be multiplied, where only a part was run.
    """

    remembers = False
    scale = 1.0

    def images(self, images: Sequence[Image.Image]) -> Any:
        """(n, dim) unit rows."""
        raise NotImplementedError("it gives scores, no embeddings")

    def captions(self, captions: Sequence[str]) -> Any:
        """(n, dim) unit rows."""
        raise NotImplementedError("it gives scores, no embeddings")

    def forget(self) -> None:
        """Drop what is remembered."""

    def decode(self, files: Sequence[bytes]) -> list[Any]:
        """What of the files is kept between two questions: the pixels, in memory."""
        return [Image.open(io.BytesIO(data)).convert("RGB") for data in files]

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """(n_images, n_captions) from what ``decode`` gave."""
        return self.images(images) @ self.captions(captions).T

    def cold(self, files: Sequence[bytes], captions: Sequence[str]) -> Any:
        """From files to scores."""
        return self.scores(self.decode(files), captions)

    def embed(self, files: Sequence[bytes]) -> Any:
        """From files to embeddings."""
        return self.images(self.decode(files))

    def rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        """A cosine for each row of a table, images fetched."""
        return np.concatenate([self._some_rows(port, some) for some in _batches(pairs)])

    def _some_rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        files = [requests.get(loopback(port, pair.url), timeout=10).content for pair in pairs]
        both = self.images(self.decode(files)), self.captions([pair.caption for pair in pairs])
        return np.einsum("nd,nd->n", *both)


class Pipeline(Contender):
    """transformers' zero-shot-image-classification pipeline, in batches."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import pipeline

        self._pipe = pipeline("zero-shot-image-classification", model=str(checkpoint), device="cpu")

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """Shares, as dictionaries sorted by label."""
        return self._pipe(list(images), candidate_labels=list(captions), batch_size=16)


class SentenceTransformersClip(Contender):
    """sentence-transformers with a CLIP checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(checkpoint), device="cpu")

    def images(self, images: Sequence[Image.Image]) -> Any:
        """(n, dim) unit rows."""
        return self._model.encode(list(images), batch_size=BATCH, normalize_embeddings=True)

    def captions(self, captions: Sequence[str]) -> Any:
        """(n, dim) unit rows."""
        return self._model.encode(list(captions), batch_size=BATCH, normalize_embeddings=True)


class OpenClip(Contender):
    """open_clip with its own random ViT-B/32; its code for the same towers."""

    def __init__(self, _checkpoint: Path) -> None:
        import torch

        self._operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):  # some torchvision builds for the CPU lack them, and then fail to import
            if not hasattr(torch.ops.torchvision, name):
                self._operators.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import open_clip

        self._torch = torch
        name = "ViT-B-32-quickgelu"
        self._model, _, self._prepare = open_clip.create_model_and_transforms(name)
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(name)

    def images(self, images: Sequence[Image.Image]) -> Any:
        """(n, dim) unit rows."""
        rows = []
        with self._torch.inference_mode():
            for some in _batches(images):
                batch = self._torch.stack([self._prepare(image) for image in some])
                rows.append(self._model.encode_image(batch, normalize=True))
        return self._torch.cat(rows).numpy()

    def captions(self, captions: Sequence[str]) -> Any:
        """(n, dim) unit rows."""
        with self._torch.inference_mode():
            rows = [
                self._model.encode_text(self._tokenize(some), normalize=True) for some in _batches(captions)
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
        """Nothing: the file is opened anew for every pair."""
        return list(files)

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """The first few pairs of all."""
        pairs = [(image, caption) for image in images for caption in captions]
        self.scale = max(1.0, len(pairs) / PAIRS_TIMED)
        return [self._score(*pair) for pair in pairs[:PAIRS_TIMED]]

    def rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        """The first few rows."""
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


def _batches(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), BATCH):
        yield things[start : start + BATCH]
