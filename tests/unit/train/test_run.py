"""Training runs from table to folder: learning, resuming to the same weights, loading, error messages."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_encoder import csv_of, square_png
from tiny_checkpoints import COLOURS
from training import run, train_options, write_pairs

from clipdemo import load_encoder
from clipdemo.errors import (
    ClipdemoError,
    CorruptCheckpointError,
    LedgerError,
    OutputError,
    SettingError,
    TrainingError,
)
from clipdemo.scoring.retrieval import mean_recall
from clipdemo.train import card, loop
from clipdemo.train import run as runs
from clipdemo.train.dataset import Pairs
from clipdemo.train.learner import TOWER_RATE
from clipdemo.train.run import run_training

TINY = {"epochs": 3, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "features"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Weights are bit-identical for equal thread counts only, and a forked child has one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def towers(tiny_towers):
    return {"image_tower": str(tiny_towers[0]), "text_tower": str(tiny_towers[1])}


@pytest.fixture(scope="module")
def trained(table, tiny_towers, tmp_path_factory):
    """The folder of a short run on tiny towers, and its result."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    image, text = map(str, tiny_towers)
    return folder, run(table, folder, image_tower=image, text_tower=text, **TINY)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def copy_of(folder, place):
    place.mkdir()
    for file in folder.rglob("*"):
        target = place / file.relative_to(folder)
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    return place


def prepare(options):
    return runs._prepare_towers(
        options, runs._open_table(options), torch.device("cpu"), lambda *progress: None
    )


class OneSplit(Pairs):
    """The same pairs for training and validation."""

    def of(self, split):
        return self.pairs


@pytest.mark.parametrize("head", ["linear", "projection"])
def test_32_pairs_are_memorised(head, table, towers, tmp_path):
    options = train_options(table, tmp_path / "m", head=head, **towers)
    learner, pairs, _ = prepare(options)
    pairs = OneSplit(**vars(replace(pairs, pairs=pairs.pairs[::2])))  # one caption each
    assert len(pairs.pairs) == 32
    settings = loop.Settings(200, 32, 1e-2, 0, weight_decay=0.0, patience=50)
    history = loop.train(learner, pairs, settings, tmp_path / "m", {}, lambda step: None)
    assert history.recall == mean_recall(*loop.embed(learner, pairs.pairs, batch_size=8)) == 1.0


def test_the_folder_contains_model_card_curves_log_and_figures(trained):
    folder, done = trained
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "model.safetensors", "README.md", "curves.png", "log.jsonl", "metrics.json"}
    assert names == expected | {"image_tower", "text_tower"}
    card = (folder / "README.md").read_text("utf-8")
    assert "28 images and 56 pairs (train), 4 images and 8 pairs (val)" in card
    assert "clipdemo train pairs.csv" in card
    assert "The table does not name a licence" in card
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 22))
    assert [line["validation"]["epoch"] for line in lines if "validation" in line] == [1, 2, 3]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_epoch"] == done.history.best
    assert metrics["figures"]["val"]["text_to_image"]["recall"]["1"]["low"] >= 0
    assert str(folder.parent) not in (folder / "config.json").read_text()  # the folder can be moved


def test_a_trained_folder_opens_by_its_path_and_returns_embeddings(trained, colour_items):
    folder, _ = trained
    encoder = load_encoder(str(folder), device="cpu")
    assert encoder.checkpoint.source == "folder"
    assert encoder.checkpoint.id == "model"
    images, captions = (
        encoder.encode_images(colour_items),
        encoder.encode_captions(["red left", "blue " * 300]),
    )
    assert images.shape == (8, 256)
    np.testing.assert_allclose(np.linalg.norm([*images, *captions], axis=1), 1, atol=1e-6)
    assert encoder.encode_images([]).shape == encoder.encode_captions([]).shape == (0, 256)
    tokens = encoder.caption_tokens("blue " * 300)
    assert (tokens.used, tokens.limit) == (1202, 64)
    assert tokens.kept + tokens.cut == "blue " * 300


def test_the_same_command_leads_to_the_same_weights_and_another_seed_to_others(
    trained, table, towers, tmp_path
):
    run(table, tmp_path / "again", **towers, **TINY)
    assert weights(tmp_path / "again") == weights(trained[0])
    run(table, tmp_path / "other", **towers, **TINY, seed=1)
    assert weights(tmp_path / "other") != weights(trained[0])


@pytest.mark.parametrize("stop_at", [1, 7, 11, 21])
def test_a_run_stopped_at_any_step_resumes_to_the_same_weights(
    stop_at, trained, table, towers, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)  # saved after each step
    options = train_options(table, tmp_path / "m", **towers, **TINY)

    def stop(progress):
        if progress.step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(options, stop, lambda *progress: None)
    with pytest.raises(LedgerError, match="add --resume"):
        run(table, tmp_path / "m", **towers, **TINY)
    with pytest.raises(LedgerError, match=r"differs in epochs \(it was 3\); resume"):
        run(table, tmp_path / "m", **towers, **(TINY | {"epochs": 4}), resume=True)
    run(table, tmp_path / "m", **towers, **TINY, resume=True)
    assert weights(tmp_path / "m") == weights(trained[0])
    steps = [json.loads(line).get("step") for line in (tmp_path / "m/log.jsonl").read_text().splitlines()]
    assert [step for step in steps if step] == list(range(1, 22))
    with pytest.raises(OutputError, match="already exists"):
        run(table, tmp_path / "m", **towers, **TINY, resume=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of its own to kill")
@pytest.mark.parametrize("side", ["image_tower", "text_tower"])
def test_a_run_whose_tower_was_replaced_does_not_resume(side, table, towers, tmp_path):
    shutil.copytree(towers[side], tmp_path / "tower")
    towers |= {side: str(tmp_path / "tower")}

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(train_options(table, tmp_path / "m", **towers, **TINY), stop, lambda *progress: None)
    with (tmp_path / "tower/config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(LedgerError, match="differs in version of the model's files; resume it"):
        run(table, tmp_path / "m", **towers, **TINY, resume=True)


def test_a_run_resumed_with_another_thread_count_has_a_note(table, towers, tmp_path):
    def interrupted_in(epoch, *, resume):
        def stop(progress):
            if progress.epoch == epoch:
                raise KeyboardInterrupt

        options = train_options(table, tmp_path / "m", **towers, **TINY, resume=resume)
        with pytest.raises(KeyboardInterrupt):
            run_training(options, stop, lambda *progress: None)

    for threads in (1, 2):  # the state is saved after each epoch
        torch.set_num_threads(threads)
        try:
            interrupted_in(threads, resume=threads == 2)
        finally:
            torch.set_num_threads(1)
    done = run(table, tmp_path / "m", **towers, **TINY, resume=True)
    (note,) = done.history.notes
    assert note.startswith("the run started with 1 thread and was resumed with 2 and 1")
    assert note in done.as_dict()["notes"]
    assert note in (tmp_path / "m/README.md").read_text("utf-8")


def test_a_killed_run_resumes_to_the_same_weights(trained, table, towers, tmp_path):
    child = os.fork()
    if child == 0:
        try:

            def die(progress):
                if progress.step == 16:
                    os.kill(os.getpid(), signal.SIGKILL)

            run_training(train_options(table, tmp_path / "m", **towers, **TINY), die, lambda *progress: None)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "m/state.pt").exists()
    run(table, tmp_path / "m", **towers, **TINY, resume=True)
    assert weights(tmp_path / "m") == weights(trained[0])
    assert not (tmp_path / "m/state.pt").exists()


@pytest.mark.parametrize("unfreeze", ["image", "text", "both"])
def test_trained_towers_are_saved_and_loaded(unfreeze, trained, table, towers, tmp_path, colour_items):
    done = run(table, tmp_path / "m", **towers, epochs=1, unfreeze=unfreeze)
    assert done.history.best == 1
    for place in ("image", "text"):
        before = (trained[0] / f"{place}_tower/model.safetensors").read_bytes()
        after = (tmp_path / f"m/{place}_tower/model.safetensors").read_bytes()
        assert (before != after) == (unfreeze in {place, "both"})
    assert load_encoder(str(tmp_path / "m"), device="cpu").encode_images(colour_items).shape == (8, 256)


def test_a_nan_loss_is_an_error_and_the_best_weights_are_kept(table, towers, tmp_path):
    options = train_options(table, tmp_path / "m", **towers, **TINY)
    learner, pairs, _ = prepare(options)

    def spoil(progress):
        if progress.epoch == 2:
            learner.log_scale.data.fill_(float("nan"))

    with pytest.raises(
        TrainingError,
        match=r"loss is NaN or infinite at step 9; use a smaller --learning-rate.*epoch 1 are kept",
    ):
        loop.train(learner, pairs, options.settings, tmp_path / "m", {}, spoil)
    assert load_encoder(str(tmp_path / "m"), device="cpu").encode_captions(["red"]).shape == (1, 256)


def test_too_little_memory_is_an_error(table, towers, tmp_path):
    options = train_options(table, tmp_path / "m", **towers, **TINY)
    learner, pairs, _ = prepare(options)
    learner.loss = lambda cosines, same: torch.empty(10**15).sum()
    with pytest.raises(TrainingError, match="not enough memory for 8 pairs per step; use a smaller"):
        loop.train(learner, pairs, options.settings, tmp_path / "m", {}, lambda step: None)


def test_too_little_memory_for_validation_is_an_error_and_the_best_weights_are_kept(table, towers, tmp_path):
    options = train_options(table, tmp_path / "m", **towers, **TINY)
    learner, pairs, _ = prepare(options)
    embed_captions, sizes = learner.embed_captions, []

    def grow(indices):
        if torch.is_inference_mode_enabled():
            sizes.append(len(indices))
            if (tmp_path / "m" / "log.jsonl").read_text().count("validation"):  # of the second epoch
                torch.empty(10**15)
        return embed_captions(indices)

    learner.embed_captions = grow
    with pytest.raises(TrainingError, match=r"not enough memory for 8 pairs.*epoch 1 are kept"):
        loop.train(learner, pairs, options.settings, tmp_path / "m", {}, lambda step: None)
    assert max(sizes) <= 8  # so that a smaller --batch-size helps here, too
    assert load_encoder(str(tmp_path / "m"), device="cpu").encode_captions(["red"]).shape == (1, 256)


def test_a_full_disk_is_an_error_and_the_run_can_be_resumed(trained, table, towers, tmp_path, monkeypatch):
    place = tmp_path / "m"

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(progress):
        if progress.step == 9:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match="cannot be written"):
        run_training(train_options(table, place, **towers, **TINY), fill, lambda *progress: None)
    assert load_encoder(str(place), device="cpu")
    monkeypatch.undo()
    run(table, place, **towers, **TINY, resume=True)
    assert weights(place) == weights(trained[0])


def test_frozen_towers_encode_each_image_once_across_runs(table, tiny_towers, tmp_path, monkeypatch):
    from clipdemo.models.trained import features as files

    seen = []
    encode = files.image_features
    monkeypatch.setattr(
        files,
        "image_features",
        lambda tower, items, device: seen.extend(items) or encode(tower, items, device),
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image, text = map(str, tiny_towers)
    for place in ("a", "b"):
        run(table, tmp_path / place, image_tower=image, text_tower=text, epochs=1)
    assert len(seen) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 10**9},
        {"dim": 8},
        {"dim": "many"},
        {"head": "eval"},
        {"prior": True},
        {"dropout": float("nan")},
        {"format": 1},
        {"image_tower": "../../secret"},
        {"image_tower": {"origin": "/etc", "name": "x", "revision": "", "learned": False}},
        {"image_tower": {"origin": "embedded", "name": "x", "revision": "", "learned": False}},
        {"text_tower": None},
    ],
)
def test_a_hostile_configuration_is_an_error(change, trained, tmp_path):
    folder = copy_of(trained[0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CorruptCheckpointError, match=r"\bm\b"):
        load_encoder(str(folder), device="cpu")


@pytest.mark.parametrize(
    "file", ["model.safetensors", "image_tower/model.safetensors", "text_tower/config.json"]
)
@pytest.mark.parametrize("spoil", [lambda data: data[:50], lambda data: b"", None])
def test_broken_or_missing_files_are_errors(file, spoil, trained, tmp_path):
    folder = copy_of(trained[0], tmp_path / "m")
    data = (folder / file).read_bytes()
    (folder / file).unlink()
    if spoil:
        (folder / file).write_bytes(spoil(data))
    with pytest.raises(ClipdemoError):
        load_encoder(str(folder), device="cpu")


def test_existing_files_are_never_overwritten_and_wrong_options_are_errors(table, trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="already exists"):
        run(table, tmp_path / "mine")
    with pytest.raises(OutputError, match="already exists"):
        run(table, trained[0])
    with pytest.raises(SettingError, match="omit --image-tower"):
        run(table, tmp_path / "m", base="x/y", unfreeze="image")
    with pytest.raises(SettingError, match="--adapt requires --from"):
        run(table, tmp_path / "m", adapt="lora")
    one = tmp_path / "one.csv"
    one.write_bytes(csv_of([("0.png", "one row")]))
    with pytest.raises(TrainingError, match="1 usable images"):
        run(one, tmp_path / "m", images=table.parent)


def test_the_embedded_image_tower_can_be_trained_and_loaded(
    table, towers, tmp_path, monkeypatch, colour_items
):
    from safetensors.torch import load_file

    from clipdemo.images import pool
    from clipdemo.models.embedded import towers as embedded_towers

    def as_item(picture, *facts):
        assert picture.thumbnail == b"", "training needs no thumbnails"
        return as_before(picture, *facts)

    as_before = pool.as_item
    monkeypatch.setattr(pool, "as_item", as_item)
    text = towers["text_tower"]
    run(
        table,
        tmp_path / "m",
        image_tower="embedded",
        text_tower=text,
        unfreeze="image",
        epochs=1,
        batch_size=8,
    )
    learned = load_file(tmp_path / "m/image_tower/model.safetensors")
    shipped = embedded_towers.load_image_tower().state_dict()
    assert learned.keys() == {f"model.{name}" for name in shipped}
    name = "_blocks.3._bn1.weight"
    assert not torch.equal(learned[f"model.{name}"], shipped[name])
    rows = load_encoder(str(tmp_path / "m"), device="cpu").encode_images(colour_items)
    assert np.isfinite(rows).all()


def test_only_matrices_have_weight_decay_in_towers_too(table, towers, tmp_path):
    options = train_options(table, tmp_path / "m", **towers, **TINY, unfreeze="both")
    learner, *_ = prepare(options)
    groups = learner.parameter_groups(1e-3)
    flat = [group for group in groups if any(weight.ndim < 2 for weight in group["params"])]
    assert {group["lr"] for group in flat} == {1e-3, 1e-3 * TOWER_RATE}
    assert all(group["weight_decay"] == 0 for group in flat)
    assert sum(len(group["params"]) for group in groups) == len(learner.trainable())


def test_the_card_contains_the_command_as_typed_and_escapes_licences(trained):
    command = 'clipdemo train "data [v1]/```pairs.csv"'
    done = json.loads((trained[0] / "metrics.json").read_text())
    licences = {"**CC0** <script>": 3}
    text = card.card_text(command, "a_b_c", runs.FROZEN, done, licences)
    assert f"\n````sh\n{command}\n````\n" in text
    assert r"\*\*CC0\*\* \<script\>: 3 pairs" in text


def test_an_untrained_head_with_a_prior_is_conse(table, tmp_path, colour_items):
    import torch

    from clipdemo import similarity
    from clipdemo.models.embedded import conse
    from clipdemo.models.embedded import towers as embedded_towers
    from clipdemo.models.trained.encoder import TrainedEncoder
    from clipdemo.models.trained.folder import DualEncoder, open_towers, save
    from clipdemo.models.trained.recipes import EMBEDDED, Recipe

    image, image_from, text, text_from = open_towers(EMBEDDED, EMBEDDED)
    save(tmp_path / "m", DualEncoder(Recipe(image_from, text_from, "linear", 384, True, 0.1), image, text))
    ours, builtin = TrainedEncoder(tmp_path / "m"), load_encoder("embedded")
    captions = [f"a {colour} square" for colour in COLOURS]
    tower, views = (
        embedded_towers.load_image_tower(),
        [embedded_towers.pixels(item.seen_by(embedded_towers.VIEW)) for item in colour_items],
    )
    with torch.inference_mode():
        logits = [tower(torch.from_numpy(view))[1].numpy() for view in views]
    images = conse.embed_images(np.concatenate(logits))
    np.testing.assert_allclose(ours.encode_images(colour_items), images, atol=1e-5)
    texts = similarity.unit(builtin.encode_sentences(captions) - conse.centre())
    np.testing.assert_allclose(ours.encode_captions(captions), texts, atol=1e-5)
    assert ours.checkpoint.logit_scale == pytest.approx(20)
    assert ours.caption_tokens("a cat") == builtin.caption_tokens("a cat")


def test_tiny_towers_learn_the_eight_colours(towers, tmp_path, colour_items):
    files = {f"{colour}-{side}.png": square_png(colour, side) for colour in COLOURS for side in (8, 12, 16)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rows = [(name, f"a {name.split('-')[0]} square", "val" if "-12" in name else "train") for name in files]
    (tmp_path / "pairs.csv").write_bytes(csv_of(rows, ("image", "caption", "split")))
    done = run(tmp_path / "pairs.csv", tmp_path / "m", **towers, epochs=60, learning_rate=1e-2)
    assert done.evaluations["val"].text_to_image.recall[1].value == 1.0
    encoder = load_encoder(str(tmp_path / "m"), device="cpu")
    scores = (
        encoder.encode_captions([f"a {colour} square" for colour in COLOURS])
        @ encoder.encode_images(colour_items).T
    )
    assert (scores.argmax(axis=1) == np.arange(8)).all()
