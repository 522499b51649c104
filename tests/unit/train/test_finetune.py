"""Fine-tuning a tiny CLIP and a tiny SigLIP: the base stays unchanged, the result is a plain checkpoint."""

import json

import numpy as np
import pytest
import torch
from training import run, write_pairs

from clipdemo import load_encoder
from clipdemo.errors import SettingError
from clipdemo.models.clip.encoder import TransformersEncoder
from clipdemo.train.finetune import LoraLinear


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(before, after):
    return {
        name
        for name, weight in before.model.state_dict().items()
        if not torch.equal(weight, after.model.state_dict()[name])
    }


@pytest.mark.parametrize("adapt", ["heads", "lora"])
@pytest.mark.parametrize("base", ["colour_clip", "tiny_siglip"])
def test_the_base_stays_unchanged_and_the_result_opens_like_any_checkpoint(
    base, adapt, table, tmp_path, request, colour_items
):
    folder = request.getfixturevalue(base)
    files = contents(folder)
    done = run(table, tmp_path / "m", base=str(folder), adapt=adapt, epochs=2, learning_rate=1e-3)
    assert contents(folder) == files
    before, after = (load_encoder(str(place), device="cpu") for place in (folder, tmp_path / "m"))
    assert isinstance(after, TransformersEncoder)
    assert before.checkpoint.dim == after.checkpoint.dim
    learned = changed(before, after)
    if adapt == "lora":
        assert {name for name in learned if "logit" not in name} == {
            name for name in before.model.state_dict() if name.endswith(("q_proj.weight", "v_proj.weight"))
        }
    elif base == "colour_clip":
        assert learned == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    else:
        assert learned
        assert all(".head." in name or "logit" in name for name in learned)
    assert not np.array_equal(before.encode_images(colour_items), after.encode_images(colour_items))
    assert (tmp_path / "m/README.md").read_text("utf-8").replace("\\", "").count(folder.name)
    assert json.loads((tmp_path / "m/metrics.json").read_text())["best_epoch"] == done.history.best >= 1
    assert not (tmp_path / "m/state.pt").exists()


def test_a_lora_layer_starts_as_its_linear_layer_and_merges_into_an_equal_one():
    torch.manual_seed(0)
    linear, rows = torch.nn.Linear(6, 4), torch.randn(3, 6)
    adapter = LoraLinear(linear)
    assert torch.equal(adapter(rows), linear(rows))
    torch.nn.init.normal_(adapter.up)
    assert not torch.allclose(adapter(rows), linear(rows), atol=0.1)
    torch.testing.assert_close(adapter.merged()(rows), adapter(rows))


def test_checkpoints_of_other_families_are_errors(table, tmp_path):
    with pytest.raises(SettingError, match="of the CLIP or SigLIP families; embedded is not one of them"):
        run(table, tmp_path / "m", base="embedded", adapt="heads")
