"""SIGKILL at random moments in ``pairs``, ``train`` and a download: is anything lost, or half written?

``python -m tests.security.kills [COUNT]`` kills each of the three COUNT times (50), resuming after each kill,
and prints what it saw. After every kill, each file under its final name must be whole; each resumed run must
end with the bytes of a run that was not disturbed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # pytest has them on its path
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "e2e")]

import torch
from commands import Commands, Ended, Running, environment, forking
from plain_encoder import SQUARES, csv_of
from safetensors.numpy import load_file
from stand_in_hub import Fault, StandInHub, digest
from tiny_checkpoints import COLOURS, save_colour_clip, save_tiny_bert, save_tiny_resnet
from training import write_pairs

COUNT = 50
LONGEST_RUN = 600.0  # seconds; a run that hangs is a finding
PICTURES = ("image_captions.png", "similarity_matrix.png")
HUB_NAME = "acme/tiny-clip"
DOWNLOAD = (
    "import sys; from clipdemo.models.hub import snapshot; print(snapshot.download(sys.argv[1]).folder)"
)


@dataclass
class Tally:
    """What happened to one command.

    Attributes:
        kills: runs that were killed.
        runs: started, the killed ones among them.
        completed: runs that ended with the right bytes after at least one kill.
    """

    kills: int = 0
    runs: int = 0
    completed: int = 0


@dataclass
class Victim:
    """A command to be killed again and again.

    Attributes:
        start: starts it, or resumes it; a number names the output, and says whether to resume.
        check: raises AssertionError if a file under its final name is not whole.
        finish: compares a completed output with the undisturbed one, and deletes it.
    """

    start: Callable[[int, bool], Process]
    check: Callable[[int], None]
    finish: Callable[[int], None]


class Process:
    """A running command, forked or started; ``err`` is what it printed on standard error."""

    def __init__(self, running: Running | subprocess.Popen[bytes]) -> None:
        self._running = running
        self.err = ""

    def wait(self, seconds: float | None) -> int | None:
        """The exit code, or None if it still runs after this time."""
        deadline = time.monotonic() + (LONGEST_RUN if seconds is None else seconds)
        while time.monotonic() < deadline:
            if isinstance(self._running, subprocess.Popen):
                ended = self._running.poll() is not None
            else:
                ended = self._running.ended()
            if ended:
                return self._reap()
            time.sleep(0.002)
        assert seconds is not None, "the command hangs"
        return None

    def kill(self) -> int:
        """End it with SIGKILL, unless it has just ended; returns the exit code."""
        if isinstance(self._running, subprocess.Popen):
            self._running.kill()
        else:
            self._running.send(signal.SIGKILL)
        return self._reap()

    def _reap(self) -> int:
        if isinstance(self._running, subprocess.Popen):
            self.err = self._running.communicate()[1].decode()
            return self._running.returncode
        ended: Ended = self._running.wait()
        self.err = ended.err
        return ended.code


def kill_repeatedly(victim: Victim, count: int, chance: random.Random) -> Tally:
    """Kill a command ``count`` times, at moments spread over its whole run."""
    tally, number, resume = Tally(), 0, False
    seconds = _duration(victim)
    while tally.kills < count:
        number += not resume
        tally.runs += 1
        process = victim.start(number, resume)
        code = process.wait(chance.uniform(0, 1.1 * seconds))
        if code is None:
            code = process.kill()
        if code == -signal.SIGKILL:
            tally.kills += 1
            victim.check(number)
            resume = True
            # Mostly go on, but let some runs end now: else all kills hit their first seconds.
            if chance.random() < 0.3:
                _complete(victim, number, tally)
                resume = False
        else:
            assert code == 0, process.err
            victim.finish(number)
            tally.completed += resume
            resume = False
    if resume:
        _complete(victim, number, tally)
    return tally


def _complete(victim: Victim, number: int, tally: Tally) -> None:
    process = victim.start(number, True)
    tally.runs += 1
    code = process.wait(None)
    assert code == 0, process.err
    victim.finish(number)
    tally.completed += 1


def _duration(victim: Victim) -> float:
    started = time.monotonic()
    _complete(victim, 0, Tally())
    return time.monotonic() - started


def pairs_victim(folder: Path, commands: Commands, checkpoint: Path) -> Victim:
    """A table of 192 rows with pictures and a report."""
    folder.mkdir()
    for name, data in SQUARES.items():
        (folder / name).write_bytes(data)
    rows = [(f"{colour}.png", f"{n} a {colour} square") for n in range(24) for colour in COLOURS]
    (folder / "in.csv").write_bytes(csv_of(rows))

    def files(number: int) -> dict[str, Path]:
        pictures = {name: folder / f"f{number}" / name for name in PICTURES}
        return {"output": folder / f"o{number}.csv", **pictures}

    def start(number: int, resume: bool) -> Process:
        outputs = ["--output", f"o{number}.csv", "--figures", f"f{number}", "--report", f"r{number}.html"]
        arguments = ["pairs", "in.csv", *outputs, "--workers", 2, "--checkpoint", checkpoint]
        # A run killed after its very last step left a complete output: --resume would refuse to redo it.
        done = (folder / f"o{number}.csv").exists() and not (folder / f"o{number}.csv.progress").exists()
        more = ["--resume"] if resume and not done else []
        return Process(commands.start(*arguments, "--device", "cpu", *more, cwd=folder))

    def check(number: int) -> None:
        for name, file in files(number).items():
            assert not file.exists() or file.read_bytes() == whole[name], file
        report = folder / f"r{number}.html"
        assert not report.exists() or report.read_text("utf-8").rstrip().endswith("</html>")

    def finish(number: int) -> None:
        content = {name: file.read_bytes() for name, file in files(number).items()}
        whole.update(content if number == 0 else {})
        check(number)
        assert content == whole
        left = {file.name for file in folder.glob(f"*{number}.*")} - {f"o{number}.csv", f"r{number}.html"}
        assert not left, left
        (folder / f"o{number}.csv").unlink()

    whole: dict[str, bytes] = {}
    return Victim(start, check, finish)


def train_victim(folder: Path, commands: Commands, towers: tuple[Path, Path]) -> Victim:
    """A run of 84 steps on 32 images."""
    folder.mkdir()
    write_pairs(folder)
    arguments = ["train", "pairs.csv", "--image-tower", towers[0], "--text-tower", towers[1]]
    arguments += ["--device", "cpu", "--batch-size", 8, "--epochs", 12]

    def start(number: int, resume: bool) -> Process:
        more = ["--output", f"m{number}", *(["--resume"] if resume else [])]
        return Process(commands.start(*arguments, *more, cwd=folder))

    def check(number: int) -> None:
        model = folder / f"m{number}"
        for file in model.rglob("*.safetensors"):
            assert load_file(file), file
        for file in model.glob("*.json"):
            assert json.loads(file.read_text("utf-8")), file
        if (model / "state.pt").exists():
            assert torch.load(model / "state.pt", weights_only=True)["about"]

    def finish(number: int) -> None:
        check(number)
        model = folder / f"m{number}"
        names = {path.name for path in model.iterdir()}
        content = {name: (model / name).read_bytes() for name in ("model.safetensors", "config.json")}
        lines = [json.loads(line) for line in (model / "log.jsonl").read_text("utf-8").splitlines()]
        steps = [line["step"] for line in lines if "step" in line]
        if number == 0:
            whole.update(content)
            whole_names.update(names)
        assert content == whole
        assert names == whole_names
        assert steps == list(range(1, len(steps) + 1))
        assert not (folder / f".m{number}.clipdemo-lock").exists()

    whole: dict[str, bytes] = {}
    whole_names: set[str] = set()
    return Victim(start, check, finish)


def download_victim(folder: Path, hub: StandInHub) -> Victim:
    """A download of three megabytes, in a process of its own, with a cache for each number."""

    def start(number: int, _resume: bool) -> Process:
        variables = environment() | hub.environment(folder / f"home{number}") | {"HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", DOWNLOAD, HUB_NAME]
        return Process(
            subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )

    def snapshot(number: int) -> Path:
        repo = folder / f"home{number}" / "hub" / "models--acme--tiny-clip"
        return repo / "snapshots" / hub.commit(HUB_NAME)

    def check(number: int) -> None:
        right = {name: digest(path) for name, path in hub.files(HUB_NAME).items()}
        blobs = snapshot(number).parents[1] / "blobs"
        for blob in blobs.glob("*") if blobs.exists() else ():
            assert blob.suffix == ".clipdemo" or blob.name in right.values(), blob
        for name in right:
            file = snapshot(number) / name
            if file.exists():
                assert file.read_bytes() == hub.files(HUB_NAME)[name].read_bytes(), name

    def finish(number: int) -> None:
        check(number)
        assert {name for name in os.listdir(snapshot(number)) if not name.startswith(".")} == set(
            hub.files(HUB_NAME)
        )

    return Victim(start, check, finish)


def hub_repository(folder: Path) -> Path:
    """A checkpoint of three megabytes that can be downloaded."""
    folder.mkdir()
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / "model.safetensors").write_bytes(random.Random(0).randbytes(3_000_000))
    return folder


def main() -> None:
    """Kill all three and print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"{count} kills each, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="clipdemo-kills-") as name:
        place = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        (place / "streams").mkdir()
        towers = save_tiny_resnet(place / "resnet"), save_tiny_bert(place / "bert")
        with forking(place / "streams") as commands:
            victims = {
                "pairs": pairs_victim(place / "pairs", commands, save_colour_clip(place / "clip")),
                "train": train_victim(place / "train", commands, towers),
            }
            for kind, victim in victims.items():
                _report(kind, victim, count, chance)
        with StandInHub({HUB_NAME: hub_repository(place / "repo")}) as hub:
            hub.faults["model.safetensors"] = Fault(bytes_per_second=2_000_000)
            _report("download", download_victim(place, hub), count, chance)


def _report(name: str, victim: Victim, count: int, chance: random.Random) -> None:
    started = time.monotonic()
    tally = kill_repeatedly(victim, count, chance)
    print(
        f"{name}: {tally.kills} kills in {tally.runs} runs, {tally.completed} resumed to the same bytes, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
