"""``clipdemo train`` and ``evaluate`` in their own processes: killed, resumed, and the folder used."""

import json
import random
import signal

import pytest
from commands import forking, wait_until
from plain_encoder import csv_of
from training import write_pairs

from tests.security.kills import kill_repeatedly, train_victim


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with forking(tmp_path_factory.mktemp("streams")) as some:
            yield some


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def train(commands, place, tiny_towers):
    image, text = tiny_towers

    def start(output, *more):
        arguments = ["--output", output, "--image-tower", image, "--text-tower", text, "--device", "cpu"]
        return commands.start("train", "pairs.csv", *arguments, "--batch-size", 8, *more, cwd=place)

    return start


@pytest.fixture(scope="module")
def model(train, place):
    ended = train("model", "--epochs", 40).wait()
    assert ended.code == 0, ended.err
    return place / "model", ended


def test_train_prints_progress_and_results(model):
    folder, ended = model
    lines = ended.err.splitlines()
    assert lines[0].startswith("epoch 1/40, step 7/280: loss ")
    assert "validation recall" in lines[1]
    assert "28 train, 4 val, 0 test images; best epoch" in ended.out
    assert "clipdemo train pairs.csv --output model" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_resumes_to_the_same_weights(number, train, place, model):
    output = f"stopped-{number}"
    log = place / output / "log.jsonl"
    running = train(output, "--epochs", 40)
    assert wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") > 60, running)
    running.send(number)
    ended = running.wait()
    assert ended.code == (130 if number == signal.SIGINT else -number), ended.err
    assert (place / output / "state.pt").exists()
    ended = train(output, "--epochs", 40, "--resume", "--json").wait()
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["folder"] == output
    weights = [(place / name / "model.safetensors").read_bytes() for name in (output, "model")]
    assert weights[0] == weights[1]


def test_killed_runs_leave_whole_files_and_resume_to_the_same_weights(commands, tmp_path, tiny_towers):
    tally = kill_repeatedly(train_victim(tmp_path / "train", commands, tiny_towers), 2, random.Random())
    assert tally.kills == 2
    assert tally.completed


def test_rank_pairs_and_evaluate_accept_the_folder(commands, place, model):
    ended = commands.run(
        *("rank", "0.png", "20.png", "--caption", "red left plain", "--checkpoint", "./model", "--json"),
        cwd=place,
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["checkpoint"] == "model"
    ended = commands.run("pairs", "pairs.csv", "--checkpoint", "./model", "--output", "scored.csv", cwd=place)
    assert ended.code == 0, ended.err
    ended = commands.run(
        *("evaluate", "pairs.csv", "--checkpoint", "./model", "--split", "val", "--json"), cwd=place
    )
    assert ended.code == 0, ended.err
    evaluation = json.loads(ended.out)
    metrics = json.loads((model[0] / "metrics.json").read_text())
    recall = evaluation["sources"]["all"]["text_to_image"]["recall"]
    assert recall == metrics["figures"]["val"]["text_to_image"]["recall"]


def test_evaluate_measures_each_source_and_counts_failures(commands, place, colour_clip):
    rows = [(f"{n}.png", f"caption {n}", "even" if n % 2 == 0 else "odd") for n in range(8)]
    (place / "mixed.csv").write_bytes(
        csv_of([*rows, ("gone.png", "x", "odd")], ("image", "caption", "source"))
    )
    ended = commands.run("evaluate", "mixed.csv", "--checkpoint", colour_clip, cwd=place)
    assert ended.code == 1, ended.err
    assert "even: 4 images, 4 captions" in ended.out
    assert "odd: 4 images, 4 captions" in ended.out
    assert "1 rows failed" in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "none.csv", "--output", "x"), "there is no table none.csv"),
        (("train", "one.csv", "--output", "x"), "1 usable images"),
        (("train", "pairs.csv", "--output", "model"), "model already exists"),
        (("train", "pairs.csv", "--output", "x", "--from", "embedded"), "CLIP or SigLIP families"),
        (("train", "pairs.csv", "--output", "x", "--image-tower", "no/such"), "offline mode is on"),
        (("evaluate", "none.csv"), "there is no table none.csv"),
        (("evaluate", "one.csv", "--split", "test"), "no column 'split'"),
        (("evaluate", "pairs.csv", "--split", "test"), "no row of the table has the split 'test'"),
    ],
)
def test_errors_are_one_sentence(arguments, words, commands, place, model):
    (place / "one.csv").write_bytes(csv_of([("0.png", "one row")]))
    ended = commands.run(*arguments, cwd=place)
    assert ended.code == 2, ended
    assert words in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.out == ""
    assert not (place / "x").exists()
