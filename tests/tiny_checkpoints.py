"""Small real checkpoints, created by the tests and written with ``save_pretrained``: nothing is mocked.

The colour CLIP is trained for a few seconds on eight colour squares, so that its scores are meaningful.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ConvNextImageProcessorPil,
    GemmaTokenizer,
    ResNetConfig,
    ResNetModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2TextConfig,
    Siglip2Tokenizer,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "pink": (250, 150, 200),
    "orange": (250, 140, 20),
}
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def square(colour: str, side: int = 48) -> Image.Image:
    """A plain square of one of ``COLOURS``."""
    return Image.new("RGB", (side, side), COLOURS[colour])


def _byte_tokenizer() -> CLIPTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])


def save_colour_clip(folder: Path, *, seed: int = 0, dim: int = 16) -> Path:
    """A CLIP of 2+2 layers that knows eight colours; seconds to train."""
    torch.manual_seed(seed)
    tokenizer = _byte_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_TOWER,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **_TOWER)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    captions = [f"a {colour} square" for colour in COLOURS]
    batch = {
        **tokenizer(captions, padding=True, return_tensors="pt"),
        **processor([square(colour) for colour in COLOURS], return_tensors="pt"),
    }
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        loss = model(**batch, return_loss=True).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _words(kind: type[GemmaTokenizer | Siglip2Tokenizer]) -> GemmaTokenizer | Siglip2Tokenizer:
    """A case-sensitive tokenizer of a few words, in the form of SigLIP 2 (Gemma's)."""
    words = ("red", "blue", "green", "square", "RED")
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    letters = dict.fromkeys("".join(words) + "aA")
    tokens = ["<pad>", "</s>", "<unk>", "▁", *letters, *dict.fromkeys(a + b for a, b in merges)]
    tokenizer = kind(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="</s>",
        mask_token="<unk>",
        padding_side="right",
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


_TEXT = {
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "projection_size": 32,
    **_TOWER,
}


def save_tiny_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP of 2+2 layers with random weights and a case-sensitive word-level tokenizer."""
    torch.manual_seed(seed)
    text = SiglipTextConfig(**_TEXT)
    vision = SiglipVisionConfig(image_size=32, patch_size=8, **_TOWER)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.eval().save_pretrained(folder)
    _words(GemmaTokenizer).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_tiny_resnet(folder: Path) -> Path:
    """A ResNet of two stages with random weights."""
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]))
    model.eval().save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return folder


def save_tiny_bert(folder: Path) -> Path:
    """A BERT of two layers with random weights that reads single characters."""
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + one for one in letters)]
    tokenizer = BertTokenizerFast(vocab={token: number for number, token in enumerate(vocabulary)})
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **_TOWER)
    BertModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sized_clip(folder: Path, layers: int, *, seed: int = 0) -> Path:
    """A CLIP with random weights of 28 MB per layer."""
    torch.manual_seed(seed)
    tokenizer = _byte_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_TOWER,
    )
    wide = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=layers, **wide)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def save_tiny_siglip2(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP 2 of 2+2 layers with random weights that reads images in their own shape (NaFlex)."""
    torch.manual_seed(seed)
    text = Siglip2TextConfig(**_TEXT)
    vision = Siglip2VisionConfig(patch_size=8, num_patches=16, **_TOWER)
    model = Siglip2Model(Siglip2Config(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.eval().save_pretrained(folder)
    _words(Siglip2Tokenizer).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return folder
