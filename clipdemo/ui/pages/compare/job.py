"""The work behind a comparison: which checkpoints, how far each one is, and what is missing.

A machine may hold only one of the compared checkpoints at a time. So at most one that still has work left is
loaded, and complete ones are scored from cached embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from clipdemo.compare.costs import Cost
from clipdemo.errors import CheckpointError, ReleasedCheckpointError
from clipdemo.models import catalogue, load
from clipdemo.models.cache import BATCH, CachedEncoder
from clipdemo.models.loader import Status
from clipdemo.types import ImageItem
from clipdemo.ui import views
from clipdemo.ui.jobs import Job, Progress
from clipdemo.ui.state import Engine, with_queue_line

FEWEST, MOST = 2, 4  # checkpoints of a comparison
STEP = 4  # images encoded between two chances for a click
_BROKEN = "compare-broken"


@dataclass(frozen=True)
class Task:
    """What a comparison encodes under each checkpoint.

    Attributes:
        names: the checkpoints, as the loader knows them.
        prompts: captions, templates filled.
    """

    names: tuple[str, ...]
    images: tuple[ImageItem, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Entrant:
    """The state of one compared checkpoint.

    Attributes:
        name: as the loader knows it.
        title: for people; unique within the comparison.
        encoder: its weights may have been released; None before it was ever loaded.
        images: number still to be encoded.
        prompts: number still to be encoded.
        broken: why it cannot be used although it loaded; empty if it can.
    """

    name: str
    title: str
    status: Status
    encoder: CachedEncoder | None
    images: int
    prompts: int
    broken: str

    @property
    def complete(self) -> bool:
        """Whether everything can be scored from cached embeddings."""
        return self.encoder is not None and not self.images and not self.prompts and not self.broken

    @property
    def reason(self) -> str:
        """Why it cannot be compared; empty if it can."""
        return self.broken or (self.status.reason if self.status.state == "failed" else "")


class ComparisonJob(Job):
    """Loads, encodes and times what a comparison lacks, one checkpoint at a time."""

    def __init__(self, engine: Engine, task: Task) -> None:
        super().__init__()
        self._engine, self._task = engine, task

    def checkpoints(self) -> tuple[str, ...]:
        """Those that still have work left.

        The session keeps those alone: with the sidebar's checkpoint, two would not fit into a small machine.
        """
        entrants = look(self._engine, self._task)
        names = [entrant.name for entrant in entrants if not (entrant.complete or entrant.reason)]
        following = _next(self._engine, entrants)
        if following and following.name not in names:
            names.append(following.name)
        return tuple(names)

    def step(self) -> bool:
        """Encode a few images or captions, or time a batch, under the checkpoint whose turn it is."""
        entrants = look(self._engine, self._task)
        entrant = _next(self._engine, entrants)
        if entrant is None or entrant.name not in self.granted:  # the next run claims it first
            return False
        loader = self._engine.loader
        encoder = loader.encoder(entrant.name)
        # The embedded model is available from the start, but what loading it costs is known only once it was
        # loaded.
        unloaded = loader.status(entrant.name).state == "idle"
        if encoder is None or (unloaded and entrant.complete):
            loader.start(entrant.name)  # the page looks again until it is loaded
            return False
        if entrant.complete and any(each.status.state == "loading" for each in entrants):
            return False  # loading at the same time would spoil the timing
        try:
            self._work(entrant, with_queue_line(encoder))
        except ReleasedCheckpointError:
            pass  # another session needed the memory; it is loaded again later
        except CheckpointError as error:
            st.session_state.setdefault(_BROKEN, {})[entrant.name] = str(error)
        return True

    def progress(self) -> Progress | None:
        """What is done with the checkpoint whose turn it is."""
        entrant = _next(self._engine, look(self._engine, self._task))
        if entrant is None or self._engine.loader.encoder(entrant.name) is None:
            return None
        title = views.plain(entrant.title)
        if entrant.complete:
            return Progress(0.5, f"{title}: measuring its speed")
        total = len(self._task.images) + len(self._task.prompts)
        share = 1 - (entrant.images + entrant.prompts) / max(1, total)
        return Progress(share, f"{title}: {encoded_text(self._task, entrant)}")

    def _work(self, entrant: Entrant, encoder: CachedEncoder) -> None:
        if entrant.images:
            encoder.encode_images(encoder.missing(self._task.images)[:STEP])
        elif entrant.prompts:
            encoder.encode_captions(encoder.missing_captions(self._task.prompts)[:BATCH])
        else:
            self._engine.stopwatch.step(encoder)


def look(engine: Engine, task: Task) -> list[Entrant]:
    """The current state of every checkpoint of the task."""
    broken: dict[str, str] = st.session_state.get(_BROKEN, {})
    entrants = []
    for name, title in zip(task.names, titles(task.names), strict=True):
        encoder = engine.loader.known(name)
        images = len(encoder.missing(task.images) if encoder else task.images)
        prompts = len(encoder.missing_captions(task.prompts) if encoder else task.prompts)
        status = engine.loader.status(name)
        entrants.append(Entrant(name, title, status, encoder, images, prompts, broken.get(name, "")))
    return entrants


def titles(names: Sequence[str]) -> list[str]:
    """A title for each checkpoint; equal ones are numbered."""
    plain = [catalogue.title(name) for name in names]
    return [
        title if plain.count(title) == 1 else f"{title} ({1 + plain[:place].count(title)})"
        for place, title in enumerate(plain)
    ]


def available(engine: Engine, offered: Sequence[str]) -> list[str]:
    """The offered checkpoints that need no download, and the one that is downloaded in any case."""
    return [
        name
        for name in offered
        if name == engine.preferred or engine.loader.known(name) or load.is_local(name)
    ]


def first_choice(engine: Engine, chosen: str, offered: Sequence[str]) -> list[str]:
    """The default comparison: the checkpoint in use, and another that needs no download."""
    others = [
        name
        for name in available(engine, offered)
        if name != chosen and engine.loader.status(name).state != "failed"
    ]
    local = [name for name in others if engine.loader.known(name) or load.is_local(name)]
    return [chosen, *local[:1]]


def cost(engine: Engine, entrant: Entrant) -> Cost | None:
    """Its measured cost so far; None before it was loaded."""
    encoder = entrant.encoder
    if encoder is None:
        return None
    speed = engine.stopwatch.speed(encoder.checkpoint)
    return Cost(encoder.checkpoint, encoder.device, encoder.dtype, engine.loader.cost(entrant.name), speed)


def timed(engine: Engine, entrant: Entrant) -> bool:
    """Whether its speed was measured."""
    return bool(entrant.encoder and engine.stopwatch.speed(entrant.encoder.checkpoint))


def settled(engine: Engine, entrant: Entrant) -> bool:
    """Whether its state is final."""
    done = entrant.complete and timed(engine, entrant)
    return not entrant.status.busy and (done or bool(entrant.reason))


def try_again(engine: Engine, name: str) -> None:
    """Load a checkpoint that failed again."""
    st.session_state.get(_BROKEN, {}).pop(name, None)
    engine.loader.start(name)


def encoded_text(task: Task, entrant: Entrant) -> str:
    """How many images, then captions, are encoded."""
    if entrant.images:
        return f"{len(task.images) - entrant.images} of {len(task.images)} images encoded"
    return f"{len(task.prompts) - entrant.prompts} of {len(task.prompts)} captions encoded"


def _next(engine: Engine, entrants: Sequence[Entrant]) -> Entrant | None:
    """The next checkpoint: rankings before timings, loaded before others, local before the hub's.

    None while another one of them loads: it would wait for memory that this session itself holds.
    """

    def unloaded(entrant: Entrant) -> bool:
        return engine.loader.encoder(entrant.name) is None

    usable = [entrant for entrant in entrants if not entrant.reason]
    waiting = [entrant for entrant in usable if not entrant.complete]
    loaded = [entrant for entrant in waiting if not unloaded(entrant)]
    loading = [entrant for entrant in waiting if entrant.status.state == "loading"]
    if loaded or loading:
        return [*loaded, *loading][0]
    idle = [entrant for entrant in waiting if not entrant.status.busy]
    if idle:
        return min(idle, key=lambda entrant: not load.is_local(entrant.name))
    untimed = [entrant for entrant in usable if entrant.complete and not timed(engine, entrant)]
    return min(untimed, key=lambda entrant: (unloaded(entrant), not entrant.status.busy), default=None)
