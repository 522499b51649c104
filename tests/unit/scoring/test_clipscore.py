"""Our cosine against torchmetrics' CLIPScore: 100 times the cosine, at least 0, averaged over pairs."""

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image
from tiny_checkpoints import COLOURS, square
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from clipdemo.models.load import load_encoder
from clipdemo.scoring.score import score_pairs


class Model(CLIPModel):
    """transformers 5 wraps features in an output object; torchmetrics 1.9 expects the tensor itself."""

    def get_image_features(self, *inputs, **options):
        return super().get_image_features(*inputs, **options).pooler_output

    def get_text_features(self, *inputs, **options):
        return super().get_text_features(*inputs, **options).pooler_output


class Processor:
    """Image processor and tokenizer as one, without torchvision, which CLIPProcessor asks for."""

    def __init__(self, folder):
        self._images = CLIPImageProcessorPil.from_pretrained(folder)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder)

    def __call__(self, text=None, images=None, padding=True, **options):
        return (
            self._images(images, **options)
            if text is None
            else self._tokenizer(text, padding=padding, **options)
        )


@pytest.fixture(scope="module")
def theirs(colour_clip):
    parts = Model.from_pretrained(colour_clip).eval(), Processor(colour_clip)
    return lambda: parts


PICTURES = [
    *map(square, COLOURS),
    Image.linear_gradient("L").convert("RGB"),
    noise((90, 40)),
    noise((33, 70), seed=1),
    square("red", 31),
]
CAPTIONS = [
    *(f"a {colour} square" for colour in COLOURS),
    "red",
    "Two GREEN squares, side by side!",
    "é 😀",
    "a green square",
]


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_every_pair_agrees_with_torchmetrics(theirs, colour_clip, item_of):
    encoder = load_encoder(colour_clip, device="cpu")
    pairs = [(image, caption) for image in PICTURES[::3] for caption in CAPTIONS]
    items = {id(image): item_of(image, str(n)) for n, image in enumerate(PICTURES)}
    ours = score_pairs(encoder, [(items[id(image)], caption) for image, caption in pairs])
    assert not any(score.truncated for score in ours)
    expected = []
    with torch.inference_mode():
        for image, caption in pairs:
            expected.append(float(clip_score(tensor(image), caption, theirs)))
    found = [max(100 * score.cosine, 0) for score in ours]
    assert min(found) == 0  # some cosines are below it
    assert max(found) > 90
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_their_mean_over_a_table_is_ours(theirs, colour_clip, item_of):
    encoder = load_encoder(colour_clip, device="cpu")
    metric = CLIPScore(theirs)
    with torch.inference_mode():
        for image, caption in zip(PICTURES, CAPTIONS, strict=True):
            metric.update(tensor(image), caption)
    rows = [
        (item_of(image, str(n)), caption)
        for n, (image, caption) in enumerate(zip(PICTURES, CAPTIONS, strict=True))
    ]
    mean = np.mean([score.cosine for score in score_pairs(encoder, rows)])
    assert float(metric.compute()) == pytest.approx(max(100 * mean, 0), abs=2e-3)
