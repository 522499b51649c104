"""The memory that weights will take is known from their files, before they are loaded."""

import json

import pytest

from clipdemo.models.weights import weight_bytes


def test_safetensors_are_scaled_to_the_dtype_they_are_used_in(colour_clip):
    from safetensors.torch import load_file

    count = sum(t.numel() for t in load_file(colour_clip / "model.safetensors").values())
    assert abs(weight_bytes(colour_clip, 4) - 4 * count) <= 1000  # position numbers stay integers
    assert abs(weight_bytes(colour_clip, 2) - 2 * count) <= 1000


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x09\0\0\0\0\0\0\0{"a":{}} '],
    ids=["empty", "huge header", "no object", "no offsets"],
)
def test_a_broken_file_counts_with_its_size_on_disk(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert weight_bytes(tmp_path, 4) == len(content)


def test_a_pickle_is_scaled_to_the_dtype_of_its_configuration(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1000))
    assert weight_bytes(tmp_path, 4) == 1000
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "float16"}))
    assert weight_bytes(tmp_path, 4) == 2000


def test_the_configuration_counts_where_it_describes_more_than_the_files(tmp_path, colour_clip):
    config = json.loads((colour_clip / "config.json").read_text("utf-8"))
    config["vision_config"]["num_hidden_layers"] = 10**6
    (tmp_path / "config.json").write_text(json.dumps(config))
    width, inner = 32, 64
    assert weight_bytes(tmp_path, 4) > 4 * 10**6 * (4 * width * width + 2 * width * inner)


def test_only_the_variant_that_is_read_counts(tmp_path):
    for name in ("model.safetensors", "model.fp16.safetensors"):
        (tmp_path / name).write_bytes(b"1234")
    assert weight_bytes(tmp_path, 4) == 4


def test_a_folder_without_weights_counts_as_nothing(tmp_path):
    assert weight_bytes(tmp_path, 4) == 0
