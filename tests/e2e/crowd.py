"""Twenty visitors at once on one app, each with captions of its own, who switch checkpoints at random.

What each must see is computed beforehand by the engine, without pages or sessions.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from browsing import running_app
from sessions import Grid, Session
from websockets.exceptions import ConnectionClosed

from clipdemo import load_encoder, samples, score_matrix
from clipdemo.models.catalogue import EMBEDDED, title
from clipdemo.models.load import public_id

VISITORS = 20
CHANGES = 4  # of captions and checkpoints, half and half
CAPTIONS = 2  # a visitor has at a time
WORDS = ("a", "red", "blue", "green", "square")  # all that the tiny SigLIP can tell apart
MEMORY_MB = "2700"  # a small hosted machine
TILES = 5  # the page shows of each of several captions
SECONDS = 240.0  # a grid may take; the first one under a checkpoint waits for the frameworks
CLOSE = 0.002  # cosines are shown to three decimals

Answers = dict[str, dict[str, dict[str, float]]]  # title -> caption -> file name -> cosine


@dataclass(frozen=True)
class Plan:
    """What one visitor does.

    Attributes:
        start: the checkpoint in the link.
        captions: all the visitor's captions; the first ``CAPTIONS`` are in the link.
        changes: to a checkpoint, or, where None, to the next captions.
    """

    start: str
    captions: tuple[str, ...]
    changes: tuple[str | None, ...]


@dataclass
class Visit:
    """How a visit went.

    Attributes:
        opening: seconds from opening the link to the grid.
        captions: seconds from sending new captions to the grid of them, each.
        switches: the same of checkpoints.
        wrong: what grids said that they should not, on every grid seen.
        errors: of the page, the connection, or a grid that did not come.
    """

    opening: float = 0.0
    captions: list[float] = field(default_factory=list)
    switches: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def plans(linked: Sequence[str], typed: Sequence[str], seed: int = 0) -> list[Plan]:
    """One plan a visitor; no two have a caption in common.

    Args:
        linked: checkpoints that a link can ask for.
        typed: those that must be typed into the picker.
        seed: of the order.
    """
    chance = random.Random(seed)
    sentences = [" ".join(words) for count in (5, 4, 3) for words in itertools.permutations(WORDS, count)]
    chance.shuffle(sentences)
    made = []
    for _ in range(VISITORS):
        at = start = chance.choice(linked)
        changes: list[str | None] = []
        for switch in chance.sample([True, False], counts=[CHANGES // 2, CHANGES // 2], k=CHANGES):
            if switch:
                at = chance.choice([name for name in (*linked, *typed) if name != at])
            changes.append(at if switch else None)
        count = CAPTIONS * (1 + changes.count(None))
        made.append(Plan(start, tuple(sentences[:count]), tuple(changes)))
        del sentences[:count]
    return made


def answers(checkpoints: Sequence[str], planned: Sequence[Plan]) -> Answers:
    """What every caption scores with every sample photograph under every checkpoint, by the engine alone."""
    captions = [caption for plan in planned for caption in plan.captions]
    items = samples.sample_items()
    names = [item.name for item in items]
    found: Answers = {}
    for checkpoint in checkpoints:
        cosine = score_matrix(load_encoder(checkpoint), items, captions).cosine
        found[title(checkpoint)] = {
            caption: dict(zip(names, cosine[:, column].tolist(), strict=True))
            for column, caption in enumerate(captions)
        }
    return found


def wrong_in(grid: Grid, right: Answers, own: Sequence[str]) -> Iterator[str]:
    """What a grid says that it should not: a caption of another visitor's, or other images or cosines."""
    for caption, tiles in grid.rankings.items():
        where = f"{caption!r} under {grid.checkpoint}"
        if caption not in own:
            yield f"{where} is another visitor's"
            continue
        cosines = right[grid.checkpoint][caption]
        best = sorted(cosines.values(), reverse=True)[:TILES]
        if [tile.rank for tile in tiles] != list(range(1, TILES + 1)):
            yield f"{where} has the ranks {[tile.rank for tile in tiles]}"
        # Equal cosines may come in either order, so each place is judged by its cosine and each name by its
        # own.
        elif not np.allclose([tile.cosine for tile in tiles], best, rtol=0, atol=CLOSE) or not np.allclose(
            [tile.cosine for tile in tiles], [cosines[tile.name] for tile in tiles], rtol=0, atol=CLOSE
        ):
            yield f"{where} shows {tiles}, not {best}"


def visit(address: str, plan: Plan, right: Answers) -> Visit:
    """Do what is planned, each step once the grid of the one before is there."""
    done = Visit()
    checkpoint, number = plan.start, 0
    try:
        with Session(address, plan.captions[:CAPTIONS], public_id(checkpoint)) as session:

            def until_there(started: float) -> float:
                wanted = plan.captions[number * CAPTIONS : (number + 1) * CAPTIONS]
                for grid in session.grids(SECONDS):
                    done.wrong += wrong_in(grid, right, plan.captions)
                    if grid.checkpoint == title(checkpoint) and tuple(grid.rankings) == wanted:
                        break
                done.errors += session.troubles
                session.troubles.clear()
                return time.perf_counter() - started

            done.opening = until_there(time.perf_counter())
            for change in plan.changes:
                started = time.perf_counter()
                if change:
                    checkpoint = change
                    session.choose(change)
                    done.switches.append(until_there(started))
                else:
                    number += 1
                    session.write_captions(plan.captions[number * CAPTIONS : (number + 1) * CAPTIONS])
                    done.captions.append(until_there(started))
    except (TimeoutError, ConnectionClosed, OSError) as error:
        done.errors.append(f"{type(error).__name__}: {error}")
    return done


@contextmanager
def crowded(colour_clip: Path, siglip: Path, log: Path) -> Iterator[tuple[str, Callable[[], list[Visit]]]]:
    """The app's address, and what sends the crowd there and says how the visits went."""
    linked, typed = [EMBEDDED, str(colour_clip)], [str(siglip)]
    planned = plans(linked, typed)
    right = answers([*linked, *typed], planned)

    def send() -> list[Visit]:
        with ThreadPoolExecutor(VISITORS) as pool:
            return list(pool.map(lambda plan: visit(address, plan, right), planned))

    settings = {
        "CLIPDEMO_CHECKPOINT": str(colour_clip),
        "CLIPDEMO_TYPED_CHECKPOINTS": "folders",
        "CLIPDEMO_MEMORY_MB": MEMORY_MB,
    }
    with running_app(log, **settings) as address:
        yield address, send
