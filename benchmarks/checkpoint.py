"""The checkpoint of every contender: a CLIP with random weights, written by ``save_pretrained``.

Speed does not depend on weights. The tokenizer maps each of the benchmark's words to one token, as CLIP's
does with common words.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from benchmarks.photographs import WORDS

_OTHER_WORDS = ["a", "photo", "photograph", "of", "beside", "behind", "it", "this", "is", "the"]
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_checkpoint(folder: Path, *, tiny: bool) -> Path:
    """Write a ViT-B/32, or a toy with the same architecture and input size; returns the folder."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    config = CLIPConfig(text_config=TINY, vision_config=TINY) if tiny else CLIPConfig()
    config.text_config.bos_token_id = tokenizer.bos_token_id
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config.text_config.pad_token_id = tokenizer.pad_token_id
    CLIPModel(config).eval().save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def _tokenizer() -> CLIPTokenizer:
    """Build a byte-level tokenizer whose merges join each known word from its letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: dict[tuple[str, str], None] = {}
    for word in [*WORDS, *_OTHER_WORDS]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[parts[0], parts[1]] = None
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens += dict.fromkeys(left + right for left, right in merges)
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=77)
