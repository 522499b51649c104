"""Hostile checkpoints are refused with a sentence, before memory or time is spent on them."""

import json
import os
import shutil
import struct

import pytest
from stand_in_hub import StandInHub

from clipdemo.errors import (
    CheckpointError,
    CorruptCheckpointError,
    UnsafeWeightsError,
    UnsupportedCheckpointError,
)
from clipdemo.models import load, trial
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.clip import bounds, tokenizer
from clipdemo.models.clip.families import FAMILIES
from clipdemo.models.load import load_encoder
from clipdemo.models.loader import Loader
from clipdemo.models.safetensors_header import read_header

FAMILY_FIXTURES = ["colour_clip", "tiny_siglip", "tiny_siglip2"]


@pytest.fixture
def clip(colour_clip, tmp_path):
    """A copy of the tiny CLIP that a test may spoil."""
    return shutil.copytree(colour_clip, tmp_path / "hostile")


def edit(file, change):
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def put(content, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    content[last] = value


# --- configurations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[(f"vision_config.{key}", 10**9) for key in ("hidden_size", "num_hidden_layers", "num_channels")],
        *[(f"text_config.{key}", 10**9) for key in ("vocab_size", "max_position_embeddings")],
        ("vision_config.image_size", 10**9),
        ("vision_config.patch_size", 0),
        ("vision_config.patch_size", -4),
        ("vision_config.image_size", [32, 32]),
        ("vision_config_dict.image_size", 10**9),
        ("projection_dim", 10**9),
        ("anything.at_all", 10**9),
        ("anything.at_all", 10**400),
        ("anything.at_all", 1e999),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("attn_implementation", "someone/kernel"),
        ("text_config._attn_implementation", "someone/kernel"),
        ("transformers_weights", "../other/model.safetensors"),
        ("architectures", ["\x1b]0;owned\x07"]),
        ("anything.\x9b2J", "text"),
    ],
)
def test_a_configuration_that_asks_for_absurd_things_is_refused(clip, path, value):
    edit(clip / "config.json", lambda content: put(content, path, value))
    with pytest.raises((UnsupportedCheckpointError, CorruptCheckpointError), match="hostile"):
        load.check_files(clip, "hostile")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("size.shortest_edge", 20_000),
        ("size", 20_000),
        ("size", [20_000, 4]),
        ("crop_size.height", 10**9),
        ("pad_size.width", 10**9),
        ("max_num_patches", 10**9),
        ("image_processor.size.height", 10**9),
        ("rescale_factor", 1e300),
    ],
)
@pytest.mark.parametrize("name", bounds.PROCESSORS)
def test_an_image_processor_that_enlarges_images_is_refused(clip, name, path, value):
    if not (clip / name).exists():
        (clip / name).write_text("{}")
    edit(clip / name, lambda content: put(content, path, value))
    with pytest.raises(UnsupportedCheckpointError, match="hostile asks for"):
        load.check_files(clip, "hostile")


def test_too_many_patches_are_refused_although_each_number_is_usual(clip):
    edit(clip / "config.json", lambda content: content["vision_config"].update(image_size=1024, patch_size=4))
    with pytest.raises(UnsupportedCheckpointError, match="65,536 patches"):
        load_encoder(clip)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b'{"a": 1' + b"0" * 5_000 + b"}",
        b"\xff",
        b"{}" + b" " * 3_000_000,
        b'"clip"',
    ],
    ids=["deep lists", "deep objects", "digits", "no text", "large", "a string"],
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_configuration_that_is_hard_to_parse_is_refused(clip, name, content):
    (clip / name).write_bytes(content)
    with pytest.raises((CorruptCheckpointError, UnsupportedCheckpointError)):
        load.check_files(clip, "hostile")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(clip, name):
    (clip / name).unlink()
    os.mkfifo(clip / name)
    with pytest.raises(CheckpointError):
        load_encoder(clip)


# As published: the largest of each family, and the catalogue's smallest. Weights are not needed to judge.
PUBLISHED = {
    "ViT-bigG": {
        "model_type": "clip",
        "projection_dim": 1280,
        "vision_config": {
            **{"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48},
            **{"num_attention_heads": 16, "image_size": 224, "patch_size": 14},
        },
        "text_config": {
            "hidden_size": 1280,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "max_length": 20,
        },
    },
    "SigLIP 2 giant 384": {
        "model_type": "siglip",
        "vision_config": {
            **{"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40},
            **{"image_size": 384, "patch_size": 16},
        },
        "text_config": {"vocab_size": 256000, "hidden_size": 1152, "projection_size": 1536},
    },
    "SigLIP 2 512": {"model_type": "siglip", "vision_config": {"image_size": 512, "patch_size": 16}},
    "NaFlex": {"model_type": "siglip2", "vision_config": {"num_patches": 256, "patch_size": 16}},
    "ViT-L 336": {
        "model_type": "clip",
        "text_config_dict": {"eos_token_id": 2},
        "vision_config": {"image_size": 336, "patch_size": 14},
        "vision_config_dict": {"image_size": 336, "patch_size": 14},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_are_within_the_bounds(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 512, "width": 512}, "max_num_patches": 1024, "resample": 3})
    )
    bounds.check_configuration(tmp_path, name)


# --- tokenizers -----------------------------------------------------------------------------------------


def growing(content):
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    content["normalizer"]["normalizers"] += [twice] * 26


def catastrophic(content):
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "(a*)*b|(a|a)*$"}


def many_special_tokens(content):
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}] * 20,
        "pair": [],
        "special_tokens": {"x": {"id": "x", "ids": [0] * 100, "tokens": ["x"] * 100}},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (growing, "normalizer"),
        (catastrophic, "pre_tokenizer"),
        (many_special_tokens, "post_processor"),
        (lambda content: put(content, "normalizer", None), "normalizer"),
        (lambda content: put(content, "normalizer", {"type": "NFKC"}), "normalizer"),
        (lambda content: put(content, "pre_tokenizer", {"type": "Whitespace"}), "pre_tokenizer"),
        (lambda content: put(content, "model.dropout", 0.5), "dropout"),
        (lambda content: put(content, "model.end_of_word_suffix", ""), "end_of_word_suffix"),
        (lambda content: put(content, "model.type", "WordLevel"), "WordLevel"),
        (lambda content: put(content, "model.vocab.x", 10**9), "vocabulary"),
        (lambda content: put(content, "model.vocab.x", -1), "vocabulary"),
        (lambda content: put(content, "model.vocab.x", "1"), "vocabulary"),
        (lambda content: content["model"]["vocab"].update({"x" * 10_000: 5}), "vocabulary"),
        (lambda content: put(content, "model.merges", "a b"), "merges"),
        (lambda content: content["added_tokens"].append({"id": 0, "content": ""}), "added_tokens"),
        (lambda content: content["added_tokens"].append({"id": 0, "content": "x" * 10_000}), "added_tokens"),
        (lambda content: put(content, "added_tokens", [{"id": 0, "content": "x"}] * 20_000), "added_tokens"),
        (lambda content: put(content, "padding", {"x": "y" * 3_000}), "padding"),
    ],
)
def test_a_tokenizer_file_is_refused_for_what_its_family_does_not_use(clip, change, words):
    edit(clip / "tokenizer.json", change)
    with pytest.raises((UnsupportedCheckpointError, CorruptCheckpointError), match=words):
        load_encoder(clip)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tokenizer_object", {"a": 1}),
        ("init_inputs", ["/etc/passwd"]),
        ("gguf_file", "x.gguf"),
        ("vocab", {"a": 0}),
        ("sp_model_kwargs", {"model_file": "/etc/passwd"}),
        ("pad_token", "x" * 10_000),
    ],
)
def test_settings_that_reach_constructors_are_refused(clip, setting, value):
    edit(clip / "tokenizer_config.json", lambda content: content.update({setting: value}))
    with pytest.raises((UnsupportedCheckpointError, CorruptCheckpointError), match="tokenizer"):
        load_encoder(clip)


@pytest.mark.parametrize("fixture", FAMILY_FIXTURES)
@pytest.mark.parametrize("named", ["BertTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast", "NoSuch"])
def test_the_family_decides_the_tokenizer_and_no_code_is_run(fixture, named, request, tmp_path):
    folder = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "named")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    evil = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    edit(
        folder / "tokenizer_config.json",
        lambda content: content.update(tokenizer_class=named, auto_map=evil),
    )
    edit(folder / "config.json", lambda content: content.update(auto_map=evil))
    encoder, plain = load_encoder(folder), load_encoder(request.getfixturevalue(fixture))
    captions = ["a red square", "RED <|endoftext|></s> \u00e9\ufdfa"]
    assert (
        encoder.caption_inputs(captions)["input_ids"] == plain.caption_inputs(captions)["input_ids"]
    ).all()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fixture", FAMILY_FIXTURES)
def test_token_ids_are_those_of_transformers(fixture, request):
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(fixture)
    encoder, automatic = load_encoder(folder), AutoTokenizer.from_pretrained(folder)
    assert type(encoder._tokenizer) is type(automatic)
    for caption in ("a red square", "  A  RED\tsquare ", "\u00e9\ufdfa ", "<|endoftext|></s>", ""):
        prepared = caption.lower() if encoder.family.lower_case else caption
        assert encoder._tokenizer(prepared).input_ids == automatic(prepared).input_ids


def test_the_tokenizer_files_of_older_releases_are_accepted(clip, colour_clip):
    def older(content):
        split, byte_level = content["pre_tokenizer"]["pretokenizers"]
        split["pattern"]["Regex"] = split["pattern"]["Regex"].removeprefix(
            "<\\|startoftext\\|>|<\\|endoftext\\|>|"
        )
        del byte_level["use_regex"]
        for setting in ("byte_fallback", "ignore_merges"):
            del content["model"][setting]

    edit(clip / "tokenizer.json", older)
    ids = [load_encoder(each).caption_inputs(["a red square"])["input_ids"] for each in (clip, colour_clip)]
    assert (ids[0] == ids[1]).all()


def test_captions_of_any_length_are_read(colour_clip):
    encoder = load_encoder(colour_clip)
    for caption in ("a" * 150_000, "word " * 30_000, " " * 150_000, "a" * 3_000_000):
        tokens = encoder.caption_tokens(caption)
        assert tokens.kept + tokens.cut == caption
        assert encoder.encode_captions([caption]).shape == (1, 16)


def test_tokens_that_the_model_lacks_give_a_sentence(clip):
    edit(clip / "tokenizer.json", lambda content: content["model"]["vocab"].update({"a</w>": 900}))
    with pytest.raises(CorruptCheckpointError, match="tokens that its model lacks"):
        load_encoder(clip).encode_captions(["a"])


def spiece(folder, *, pieces=("<unk>", "</s>", "<pad>", "\u2581", "a"), rules=b""):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for number, piece in enumerate(pieces):
        model.pieces.add(piece=piece, score=-float(number), type=2 if number == 0 else 1)
    model.normalizer_spec.precompiled_charsmap = rules
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    return folder / "spiece.model"


def test_a_sentencepiece_model_must_not_lengthen_texts_without_bound(tmp_path):
    tokenizer.check_sentencepiece(spiece(tmp_path), "hostile")
    real_size = struct.pack("<I", 4) + b"trie" + b"\0".join([b"x" * 33, b"fi", b""])
    tokenizer.check_sentencepiece(spiece(tmp_path, rules=real_size), "hostile")
    growing_rules = struct.pack("<I", 4) + b"trie" + b"x" * 100_000 + b"\0"
    for broken in (
        {"rules": growing_rules},
        {"rules": b"\xff" * 8},
        {"pieces": ["x" * 10_000]},
        {"pieces": []},
    ):
        if broken.get("rules") != b"\xff" * 8:  # no replacement at all lengthens nothing
            with pytest.raises(CorruptCheckpointError, match="malformed"):
                tokenizer.check_sentencepiece(spiece(tmp_path, **broken), "hostile")


def test_siglip_with_sentencepiece_is_read_and_its_model_checked(tiny_siglip, tmp_path):
    folder = shutil.copytree(tiny_siglip, tmp_path / "hostile")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"spiece.model of hostile is missing"):
        load_encoder(folder)
    spiece(folder)
    assert load_encoder(folder).encode_captions(["a a"]).shape == (1, 32)
    spiece(folder).write_bytes(b"\x0a\xff\xff\xff\xff\x0f" * 100)
    with pytest.raises(CorruptCheckpointError, match=r"spiece.model of hostile is missing or malformed"):
        load_encoder(folder)


# --- weights --------------------------------------------------------------------------------------------


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, end, shape=None, dtype="F32"):
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


HEADERS = {
    "8 EB": safetensors(b"{}", length=2**63),
    "longer than the file": safetensors(b"{}", length=100),
    "overlap": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "same bytes twice": safetensors({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "gap": safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "beyond the end": safetensors({"a": entry(0, 400)}, bytes(4)),
    "backwards": safetensors({"a": entry(8, 0, [0])}, bytes(8)),
    "negative": safetensors({"a": entry(-4, 0, [1])}, bytes(4)),
    "absurd shape": safetensors({"a": entry(0, 4, [2**40, 2**40, 2**40])}, bytes(4)),
    "shape of digits": safetensors(
        b'{"a":{"dtype":"F32","shape":[1' + b"0" * 4_000 + b'],"data_offsets":[0,4]}}', bytes(4)
    ),
    "many dimensions": safetensors({"a": entry(0, 4, [1] * 1_000)}, bytes(4)),
    "float shape": safetensors({"a": entry(0, 4, [1.0])}, bytes(4)),
    "unknown dtype": safetensors({"a": entry(0, 4, dtype="F3")}, bytes(4)),
    "dtype list": safetensors({"a": entry(0, 4, dtype=["F32"])}, bytes(4)),
    "one name twice": safetensors(
        b"{%b,%b}" % (2 * (b'"a":' + json.dumps(entry(0, 4)).encode(),)),
        bytes(4),
    ),
    "escape sequence": safetensors({"\x1b]0;owned\x07": entry(0, 4)}, bytes(4)),
    "no object": safetensors(b"[]"),
    "deep": safetensors(b"[" * 100_000),
    "no text": safetensors(b"\xff\xfe"),
    "empty": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_malformed_safetensors_file_is_refused_by_its_header(clip, name):
    (clip / "model.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(CorruptCheckpointError, match=r"model.safetensors of hostile is malformed"):
        load.check_files(clip, "hostile")


def test_the_headers_that_the_library_writes_are_accepted(request):
    for fixture in FAMILY_FIXTURES:
        assert read_header(request.getfixturevalue(fixture) / "model.safetensors")


@pytest.mark.parametrize(
    "elsewhere", ["../secret/model.safetensors", "/etc/passwd", "missing.safetensors", 5, ["x"]]
)
def test_an_index_names_files_of_its_folder_only(clip, tmp_path, elsewhere):
    (tmp_path / "secret").mkdir()
    (clip / "model.safetensors").rename(tmp_path / "secret" / "model.safetensors")
    shutil.copy(tmp_path / "secret" / "model.safetensors", clip / "model-00001-of-00001.safetensors")
    (clip / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": elsewhere}}))
    with pytest.raises(CorruptCheckpointError, match=r"index.json of hostile is malformed"):
        load_encoder(clip)


def test_pickles_are_refused_and_never_opened(clip):
    (clip / "model.safetensors").unlink()
    (clip / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UnsafeWeightsError):
        load_encoder(clip)


def test_links_within_a_folder_are_followed_and_loops_refused(clip, tmp_path):
    (clip / "config.json").rename(tmp_path / "config.json")  # the cache of the hub consists of links
    (clip / "config.json").symlink_to(tmp_path / "config.json")
    assert load_encoder(clip)
    (clip / "preprocessor_config.json").unlink()
    (clip / "preprocessor_config.json").symlink_to("preprocessor_config.json")
    with pytest.raises(CheckpointError):
        load_encoder(clip)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("config.json", "vision_config.num_attention_heads", 0),
        ("config.json", "vision_config.num_attention_heads", 7),
        ("config.json", "vision_config.hidden_size", -1),
        ("config.json", "text_config.hidden_act", "no such function"),
        ("config.json", "text_config", 5),
        ("config.json", "text_config.max_position_embeddings", 0),
        ("config.json", "dtype", "object"),
        ("preprocessor_config.json", "resample", 99),
        ("preprocessor_config.json", "image_std", [0, 0, 0]),
        ("preprocessor_config.json", "image_std", [1, 1]),
        ("preprocessor_config.json", "crop_size", {"height": 32, "width": 48}),
        ("preprocessor_config.json", "size", "large"),
        ("preprocessor_config.json", "crop_size", {"height": -1, "width": -1}),
        ("tokenizer_config.json", "model_max_length", -5),
        ("tokenizer_config.json", "model_max_length", "many"),
        ("tokenizer_config.json", "added_tokens_decoder", {"x": {"content": "y"}}),
    ],
)
def test_nonsense_gives_an_error_of_ours_or_works(clip, colour_items, file, path, value):
    edit(clip / file, lambda content: put(content, path, value))
    try:
        encoder = load_encoder(clip)
        assert encoder.encode_captions(["a red square"]).shape == (1, 16)
        assert encoder.encode_images(colour_items[:1]).shape == (1, 16)
        encoder.caption_tokens("a red square" * 100)
    except CheckpointError:
        return


# --- the trial ------------------------------------------------------------------------------------------


@pytest.fixture
def typed(colour_clip, tmp_path, monkeypatch):
    """Name of a checkpoint on a hub, and a loader that offers another one."""
    monkeypatch.setattr(trial, "_PASSED", set())
    monkeypatch.setattr(trial, "_FAILED", {})
    with StandInHub({"acme/typed": colour_clip}) as server:
        for name, value in {**server.environment(tmp_path / "home"), "HF_TOKEN": "hf_secret"}.items():
            monkeypatch.setenv(name, value)
        yield "acme/typed", Loader(EmbeddingStore(10**6), offered=["embedded"]), server


def test_a_typed_checkpoint_is_timed_in_a_child_and_loads_if_it_passes(typed, monkeypatch):
    name, loader, server = typed
    monkeypatch.setattr(trial, "MAX_PASS_SECONDS", 0.0)
    loading = []

    def observed(*arguments):
        loading.append(loader.governor._loading)
        trial.try_in_child(*arguments)

    monkeypatch.setattr(load, "try_in_child", observed)
    loader.start(name)
    status = loader.wait(name)
    assert status.state == "failed"
    assert "seconds for one image or caption, and this server allows 0" in status.reason
    assert {request.token for request in server.requests} == {None}
    assert loading == [None]  # meanwhile others load
    monkeypatch.setattr(trial, "MAX_PASS_SECONDS", 1_000.0)
    with monkeypatch.context() as patch:
        patch.setattr(trial.child, "start", None)  # it is not tried again
        loader.start(name)
        assert "this server allows 0; choose a smaller" in loader.wait(name).reason
    monkeypatch.setattr(trial, "RETRY_SECONDS", 0)  # ten minutes later
    loader.start(name)
    assert loader.wait(name).state == "ready"


def test_a_trial_that_takes_too_much_memory_is_refused(typed, monkeypatch):
    name, loader, _ = typed
    monkeypatch.setattr(trial, "PASS_BYTES", -trial.memory.need(0))  # as if the machine had no more
    loader.start(name)
    status = loader.wait(name)
    assert status.state == "failed"
    assert "memory" in status.reason or "did not pass its trial" in status.reason


def test_a_trial_that_hangs_is_ended(colour_clip, monkeypatch):
    monkeypatch.setattr(trial, "SLOWDOWN", 0)
    monkeypatch.setattr(trial, "_FAILED", {})
    with pytest.raises(UnsupportedCheckpointError, match="did not pass its trial"):
        trial.try_in_child(colour_clip, "acme/typed", 0)


def test_the_reason_of_a_child_is_escaped_like_every_error(colour_clip, tmp_path, monkeypatch):
    (tmp_path / "liar.py").write_text(
        """import json\nprint(json.dumps({"reason": "Gewichte\\u00a0fehlen\\x1b[2J"}))\n"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    start = trial.child.start
    monkeypatch.setattr(trial.child, "start", lambda _, **options: start("liar", **options))
    monkeypatch.setattr(trial, "_FAILED", {})
    with pytest.raises(CheckpointError) as caught:
        trial.try_in_child(colour_clip, "acme/typed", 0)
    assert str(caught.value) == "Gewichte\u00a0fehlen\\u001b[2J"


def test_every_family_names_classes_that_exist():
    import transformers

    for family in FAMILIES.values():
        assert all(hasattr(transformers, name) for name in family.tokenizer_classes.values())
