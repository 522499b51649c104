"""Loads the tokenizer of a checkpoint: its class is decided by the family, its files are checked first.

A tokenizer file can name chained normalizers that double the text each, patterns that never end, and template
tokens without number. transformers' classes build normalizer and pre-tokenizer themselves and take
vocabulary, merges, special tokens and post-processor from the files; those are bounded here. What a file says
beyond that must be what the class does anyway, so that no checkpoint is tokenized in another way than its
files say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from clipdemo.errors import CorruptCheckpointError, UnsupportedCheckpointError
from clipdemo.models.catalogue import CATALOGUE
from clipdemo.models.clip.families import Family
from clipdemo.models.json_files import MAX_TOKENIZER_BYTES, read_json

MAX_TOKENS = 1_000_000  # of the vocabulary; Gemma has 256,000
MAX_ADDED_TOKENS = 10_000  # Gemma has 249
MAX_LETTERS = 512  # of one token
_MAX_COMPONENT = 2_000  # characters of JSON: a post-processor, truncation or padding
_MAX_TEMPLATE = 8  # pieces around a caption
MAX_SENTENCEPIECE_BYTES = 20_000_000  # SigLIP has 0.8 MB, its multilingual variant 4.3 MB
MAX_REPLACEMENT = 100  # bytes for one character; NFKC's longest has 33

# Settings that reach transformers' constructors past all other checks.
_REFUSED_SETTINGS = (
    *("init_inputs", "tokenizer_object", "gguf_file", "vocab", "merges", "post_processor"),
    *("sp_model_kwargs", "tokenizer_padding", "tokenizer_truncation"),
)
_SMALL_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Before transformers 5, CLIP's files named no special tokens in the pattern; ids are the same.
_CLIP_SPECIAL = "<\\|startoftext\\|>|<\\|endoftext\\|>|"


def load_tokenizer(folder: Path, family: Family, checkpoint_id: str) -> Any:
    """The tokenizer that a family uses, with the vocabulary of ``folder``.

    Raises:
        CorruptCheckpointError: a file is malformed.
        UnsupportedCheckpointError: a file asks for what the class of the family does not do.
    """
    content = _read(folder / "tokenizer.json", checkpoint_id, MAX_TOKENIZER_BYTES)
    kind = _kind_of_model(content)
    if kind not in family.tokenizer_classes:
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} has a tokenizer that clipdemo does not read for {family.title} "
            f"({kind[:20] or 'no tokenizer.json'}); choose another checkpoint"
        )
    for name in _SMALL_FILES:
        _check_small_file(_read(folder / name, checkpoint_id), name, checkpoint_id)
    tokenizer_class = getattr(transformers, family.tokenizer_classes[kind])
    if content:
        _check_bounds(content, checkpoint_id)
    if kind == "BPE" and checkpoint_id not in CATALOGUE:
        _check_components(content, tokenizer_class, checkpoint_id)
    elif not content:
        _check_vocabulary(_read(folder / "vocab.json", checkpoint_id, MAX_TOKENIZER_BYTES), checkpoint_id)
    if tokenizer_class is transformers.SiglipTokenizer:
        check_sentencepiece(folder / "spiece.model", checkpoint_id)
    return tokenizer_class.from_pretrained(folder, local_files_only=True)


def _read(path: Path, checkpoint_id: str, max_bytes: int = 2_000_000) -> dict[str, Any]:
    """A JSON object; empty if the file is missing."""
    if not path.exists():
        return {}
    try:
        content = read_json(path, max_bytes)
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(
            f"{path.name} of {checkpoint_id} cannot be read; choose another checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise _malformed(checkpoint_id, path.name)
    return content


def _malformed(checkpoint_id: str, part: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"the tokenizer of {checkpoint_id} has a malformed part ({part})")


def _kind_of_model(content: dict[str, Any]) -> str:
    """The type of model in ``tokenizer.json``; old files of Unigram models lack it."""
    model = content.get("model")
    if not content or not isinstance(model, dict):
        return ""
    return str(model.get("type") or ("Unigram" if isinstance(model.get("vocab"), list) else "BPE"))


def _check_small_file(content: dict[str, Any], name: str, checkpoint_id: str) -> None:
    for setting in _REFUSED_SETTINGS:
        if content.get(setting):
            raise UnsupportedCheckpointError(
                f"{name} of {checkpoint_id} sets {setting}, which clipdemo does not support; "
                "choose another checkpoint"
            )
    for key, value in content.items():
        is_token = key.endswith(("_token", "_tokens", "_decoder")) or name != "tokenizer_config.json"
        if is_token and len(json.dumps(value)) > MAX_ADDED_TOKENS * 200:
            raise _malformed(checkpoint_id, name)
        for each in value if isinstance(value, list) else [value]:
            token = each.get("content") if isinstance(each, dict) else each
            if is_token and isinstance(token, str) and len(token) > MAX_LETTERS:
                raise _malformed(checkpoint_id, name)
    if len(content.get("added_tokens_decoder") or ()) > MAX_ADDED_TOKENS:
        raise _malformed(checkpoint_id, name)


def _check_bounds(content: dict[str, Any], checkpoint_id: str) -> None:
    """Sizes of everything that a class takes from ``tokenizer.json``."""
    model, added = content.get("model"), content.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise _malformed(checkpoint_id, "model or added_tokens")
    for token in added:
        if not isinstance(token, dict) or not 0 < len(str(token.get("content", ""))) <= MAX_LETTERS:
            raise _malformed(checkpoint_id, "added_tokens")
    for part in ("post_processor", "truncation", "padding"):
        if len(json.dumps(content.get(part))) > _MAX_COMPONENT:
            raise _malformed(checkpoint_id, part)
    if isinstance(model.get("vocab"), dict):
        _check_vocabulary(model["vocab"], checkpoint_id)
    merges = model.get("merges", [])
    if not isinstance(merges, list) or len(merges) > MAX_TOKENS:
        raise _malformed(checkpoint_id, "merges")


def _check_vocabulary(vocabulary: dict[str, Any], checkpoint_id: str) -> None:
    numbers = all(type(number) is int and 0 <= number < MAX_TOKENS for number in vocabulary.values())
    if not numbers or len(vocabulary) > MAX_TOKENS or max(map(len, vocabulary), default=0) > MAX_LETTERS:
        raise _malformed(checkpoint_id, "vocabulary")


def _check_components(content: dict[str, Any], tokenizer_class: Any, checkpoint_id: str) -> None:
    """Compare what the file says with what the class does."""
    known = [_own_content(tokenizer_class)]
    if tokenizer_class is not transformers.CLIPTokenizer:  # their captions are lower-cased beforehand
        known = [_own_content(transformers.GemmaTokenizer), _own_content(transformers.Siglip2Tokenizer)]
    for part in ("normalizer", "pre_tokenizer"):
        if _comparable(content.get(part)) not in [_comparable(each[part]) for each in known]:
            raise _unknown(checkpoint_id, part)
    for setting, default in (
        *(("dropout", None), ("continuing_subword_prefix", ""), ("end_of_word_suffix", "")),
        *(("fuse_unk", False), ("byte_fallback", False), ("ignore_merges", False)),
    ):
        if (content["model"].get(setting) or default) != (known[0]["model"].get(setting) or default):
            raise _unknown(checkpoint_id, setting)
    _check_post_processor(content.get("post_processor"), checkpoint_id)


def _own_content(tokenizer_class: Any) -> dict[str, Any]:
    """``tokenizer.json`` of the class without a vocabulary."""
    content: dict[str, Any] = json.loads(tokenizer_class().backend_tokenizer.to_str())
    return content


def _comparable(part: Any) -> str:
    """A component as text, without fields that old files lack and that do not change ids."""
    text = json.dumps(part, sort_keys=True, ensure_ascii=False)
    for field in (', "trim_offsets": true', ', "use_regex": true', json.dumps(_CLIP_SPECIAL)[1:-1]):
        text = text.replace(field, "")
    return text


def _check_post_processor(part: Any, checkpoint_id: str) -> None:
    """Special tokens around a caption: a template of a few, or CLIP's pair; each by number."""
    kind = part.get("type") if isinstance(part, dict) else part
    if kind is None or kind == "RobertaProcessing":
        return
    if kind != "TemplateProcessing":
        raise _unknown(checkpoint_id, "post_processor")
    single, tokens = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or not isinstance(tokens, dict) or len(single) > _MAX_TEMPLATE:
        raise _malformed(checkpoint_id, "post_processor")
    for token in tokens.values():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or len(ids) > _MAX_TEMPLATE:
            raise _malformed(checkpoint_id, "post_processor")


def _unknown(checkpoint_id: str, part: str) -> UnsupportedCheckpointError:
    return UnsupportedCheckpointError(
        f"the tokenizer of {checkpoint_id} has a {part} that its family does not use; "
        "choose another checkpoint"
    )


def check_sentencepiece(path: Path, checkpoint_id: str) -> None:
    """Bound ``spiece.model``: its size, its pieces, and how much its rules can lengthen a caption.

    Raises:
        CorruptCheckpointError: it is missing, malformed or beyond the bounds.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    broken = f"{path.name} of {checkpoint_id} is missing or malformed; choose another checkpoint"
    if not path.is_file() or path.stat().st_size > MAX_SENTENCEPIECE_BYTES:
        raise CorruptCheckpointError(broken)
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CorruptCheckpointError(broken) from error
    longest = max((len(piece.piece) for piece in model.pieces), default=0)
    rules = model.normalizer_spec.precompiled_charsmap
    if not 0 < len(model.pieces) <= MAX_TOKENS or longest > MAX_LETTERS:
        raise CorruptCheckpointError(broken)
    if rules and _longest_replacement(rules) > MAX_REPLACEMENT:
        raise CorruptCheckpointError(broken)


def _longest_replacement(rules: bytes) -> int:
    """In bytes. Rules are the length of a trie, the trie, and replacements that end with a zero byte."""
    replacements = rules[4 + int.from_bytes(rules[:4], "little") :]
    return max(map(len, replacements.split(b"\0")))
