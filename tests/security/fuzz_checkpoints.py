"""Mutates the files of small real checkpoints: ``python -m tests.security.fuzz_checkpoints [COUNT]``.

Each mutant is loaded and run in a child process with limits on memory and time; a child takes one after the
other until it dies. Reported are exceptions that are not ours, crashes, hangs and growth.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Timer
from typing import Any

HANG_SECONDS = 20  # of processor time for one mutant
SILENCE_SECONDS = 600.0  # wall clock: other programs may keep the processor busy
GROWTH_BYTES = 1_000_000_000
LIMIT_BYTES = 3_000_000_000  # of private memory, imports included
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 64, 10**9, 2**31, 2**63, 10**30, 0.5, -1.5, 1e300),
    *(None, True, False, "", "a", "\u0000", "../../etc/passwd", "x" * 3_000, "(a*)*b", "<|endoftext|>"),
    *([], {}, [[]], [0] * 5, {"type": "Sequence", "normalizers": []}, {"type": "Nope"}, ["a", "b"]),
)
NAMES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "dtype"),
    *(
        "num_channels",
        "size",
        "crop_size",
        "do_pad",
        "resample",
        "rescale_factor",
        "pad_token",
        "eos_token_id",
    ),
    *("tokenizer_class", "auto_map", "quantization_config", "chat_template", "added_tokens_decoder"),
    *("extra_special_tokens", "padding_side", "torchscript", "tie_word_embeddings", "output_attentions"),
    *(
        "return_dict",
        "logit_scale_init_value",
        "layer_norm_eps",
        "image_processor_type",
        "split_special_tokens",
    ),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value, a few of each large container."""
    found: list[tuple[Any, Any]] = []
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for key in keys[:40]:
        found.append((value, key))
        found += places(value[key])
    return found


def mutate_json(content: Any, chance: random.Random) -> None:
    """Change, remove, add or copy one to three values in place."""
    for _ in range(chance.randint(1, 3)):
        options = places(content)
        if not options:
            return
        container, key = chance.choice(options)
        action = chance.random()
        if action < 0.6:
            container[key] = chance.choice(HOSTILE)
        elif action < 0.75:
            del container[key]
        elif action < 0.9 and isinstance(container, dict):
            container[chance.choice(NAMES)] = chance.choice(HOSTILE)
        else:
            donor, other = chance.choice(options)
            container[key] = copy.deepcopy(donor[other])


def mutate_text(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut or repeat bytes."""
    at, action = chance.randrange(len(content)), chance.random()
    if action < 0.4:
        return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
    if action < 0.6:
        return content[:at]
    piece = content[at : at + chance.randint(1, 200)]
    return content[:at] + piece * chance.choice((2, 10, 10_000)) + content[at:]


def mutate_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Change the header: its length, its bytes or its values."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if chance.random() < 0.6:
        tensors = json.loads(header)
        mutate_json(tensors, chance)
        header = json.dumps(tensors).encode()
    else:
        header = mutate_text(header, chance)
    length = (
        len(header) if chance.random() < 0.8 else chance.choice((0, 1, len(header) + 1, 2**40, 2**64 - 1))
    )
    return struct.pack("<Q", length) + header + data


def make_mutant(seed: Path, folder: Path, number: int) -> str:
    """Write mutant ``number`` of the checkpoint ``seed``; returns which file was changed."""
    chance = random.Random(number)
    shutil.copytree(seed, folder)
    name = chance.choice((*FILES, "model.safetensors"))
    content = (folder / name).read_bytes()
    if name == "model.safetensors":
        content = mutate_safetensors(content, chance)
    elif chance.random() < 0.85:
        value = json.loads(content)
        mutate_json(value, chance)
        content = json.dumps(value).encode()
    else:
        content = mutate_text(content, chance)
    (folder / name).write_bytes(content)
    return name


def load_each() -> None:
    """In the child: load each folder named on standard input, and print what happened as JSON."""
    from PIL import Image

    from clipdemo.errors import ClipdemoError
    from clipdemo.models.clip.encoder import import_classes
    from clipdemo.models.load import load_encoder
    from clipdemo.types import ImageItem

    import_classes()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output, too
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    print("ready", file=answers, flush=True)
    image = Image.new("RGB", (60, 40))
    for line in sys.stdin:
        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + HANG_SECONDS, resource.RLIM_INFINITY))
        before, outcome = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "loaded"
        try:
            encoder = load_encoder(Path(line.rstrip("\n")))
            encoder.encode_captions(["a" * 10_000, "a red square"])
            encoder.caption_tokens("a red square " * 500)
            encoder.encode_images([ImageItem("", "", image, b"", *image.size, "bytes")])
        except ClipdemoError as error:
            outcome = type(error).__name__
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
            outcome = f"NOT OURS: {type(error).__name__}: {str(error)[:200]}"
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps({"outcome": outcome, "grown": grown}), file=answers, flush=True)


def start_child() -> subprocess.Popen[str]:
    code = "from tests.security.fuzz_checkpoints import load_each; load_each()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def ask(child: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """What the child says about a folder; it is killed if it takes too long."""
    assert child.stdin is not None
    assert child.stdout is not None
    timer = Timer(SILENCE_SECONDS, child.kill)
    timer.start()
    try:
        child.stdin.write(f"{folder}\n")
        child.stdin.flush()
        line = child.stdout.readline()
    except OSError:
        line = ""
    finally:
        timer.cancel()
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    status = child.wait()
    hung = status in (-signal.SIGXCPU, -signal.SIGKILL)
    return {"outcome": "HANG" if hung else f"CRASH: status {status}", "grown": 0}


def main(count: int, seconds: float = 600.0) -> int:
    """Load ``count`` mutants, or as many as fit into the time; returns the number of findings."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_checkpoints import save_colour_clip, save_tiny_siglip, save_tiny_siglip2

    outcomes, findings = Counter[str](), 0
    with tempfile.TemporaryDirectory() as temporary:
        seeds = [
            save(Path(temporary) / name)
            for name, save in (
                ("clip", save_colour_clip),
                ("siglip", save_tiny_siglip),
                ("siglip2", save_tiny_siglip2),
            )
        ]
        child, began, folder = start_child(), time.monotonic(), Path(temporary) / "mutant"
        for number in range(count):
            if time.monotonic() - began > seconds:
                break
            file = make_mutant(seeds[number % 3], folder, number)
            answer = ask(child, folder)
            shutil.rmtree(folder)
            if child.poll() is not None:
                child = start_child()
            outcomes[answer["outcome"].split(":")[0]] += 1
            if answer["grown"] > GROWTH_BYTES or answer["outcome"].startswith(("NOT OURS", "HANG", "CRASH")):
                findings += 1
                print(f"mutant {number} ({seeds[number % 3].name}/{file}): {answer}", flush=True)
        child.kill()
        child.wait()
        print(f"{outcomes.total()} mutants in {time.monotonic() - began:.0f} s: {dict(outcomes)}")
    return findings


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000) > 0)
