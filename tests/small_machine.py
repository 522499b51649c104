"""Loads and releases real checkpoints in a process with little memory; prints the resident memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from clipdemo.memory import Memory, give_back
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.governor import Governor
from clipdemo.models.load import load_encoder
from clipdemo.models.loader import Loader


class Session:
    """Owner of a claim."""


def main(folder: Path) -> None:
    first, second, giant = (str(folder / name) for name in ("first", "second", "giant"))
    warm = Loader(EmbeddingStore(10**6))  # the first pass brings imports and buffers into memory
    warm.start(first)
    warm.wait(first)
    warm.known(first).release()
    give_back()
    base = Memory().resident()
    # Room for one checkpoint of 113 MB and its passes, but not for two.
    governor = Governor(Memory(base + 310_000_000))
    governor.note_first_use()
    loader = Loader(EmbeddingStore(10**6), load_encoder, governor)
    seen: dict[str, object] = {"base": base}

    here = Session()
    loader.use(first, here)
    loader.start(first)
    assert loader.wait(first).state == "ready", loader.wait(first)
    seen["first"], seen["held"] = Memory().resident(), loader.cost(first).held_bytes

    there = Session()
    loader.use(second, there)
    loader.start(second)
    while loader.status(second).state == "loading":
        time.sleep(0.05)
    states = [loader.status(second).state]
    del here  # the first visitor leaves
    states.append(loader.wait(second).state)
    seen["waiting"], seen["second"] = states, Memory().resident()
    assert loader.encoder(first) is None

    loader.start(giant)
    seen["refusal"] = loader.wait(giant).reason
    assert loader.encoder(second) is not None
    loader.encoder(second).release()
    give_back()
    seen["released"] = Memory().resident()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
