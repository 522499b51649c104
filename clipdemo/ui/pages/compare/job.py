"""The comparison of a session: which checkpoints, how far each one is, and the work on what is missing.

A machine may hold only one of the compared checkpoints at a time. So only one that still has something to do is
asked for, and what is complete is scored from the embeddings that are held.
"""

from __future__ import annotations

import time
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
from clipdemo.ui.state import COMPARED, TIME_SLICE, Engine, Workspace, watched

FEWEST, MOST = 2, 4  # checkpoints of a comparison
STEP = 4  # images between two looks at the visitor's clicks
_TASK, _BROKEN = "compare-task", "compare-broken"


@dataclass(frozen=True)
class Task:
    """What the Compare page needs of each checkpoint.

    Attributes:
        names: the checkpoints, as the loader knows them.
        images: to be encoded.
        prompts: to be encoded, templates filled.
    """

    names: tuple[str, ...]
    images: tuple[ImageItem, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Entrant:
    """One of the compared checkpoints as it is now.

    Attributes:
        name: as the loader knows it.
        title: what people read; no two entrants share it.
        status: of the loader.
        encoder: known to the loader, its weights perhaps released; None before it was ever loaded.
        images: still to be encoded.
        prompts: still to be encoded.
        broken: why it cannot be used although it loaded; empty as long as it can.
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
        """Whether everything can be scored from what is held."""
        return self.encoder is not None and not self.images and not self.prompts and not self.broken

    @property
    def reason(self) -> str:
        """Why it will not come; empty as long as it may."""
        return self.broken or (self.status.reason if self.status.state == "failed" else "")


def look(shared: Engine, task: Task) -> list[Entrant]:
    """Every checkpoint of the task as it is now."""
    broken: dict[str, str] = st.session_state.get(_BROKEN, {})
    found = []
    for name, title in zip(task.names, titles(task.names), strict=True):
        encoder = shared.loader.known(name)
        images = len(encoder.missing(task.images) if encoder else task.images)
        prompts = len(encoder.missing_captions(task.prompts) if encoder else task.prompts)
        status = shared.loader.status(name)
        found.append(Entrant(name, title, status, encoder, images, prompts, broken.get(name, "")))
    return found


def titles(names: Sequence[str]) -> list[str]:
    """What people read for each checkpoint; a number tells apart folders that are called alike."""
    plain = [catalogue.title(name) for name in names]
    return [
        title if plain.count(title) == 1 else f"{title} ({1 + plain[:place].count(title)})"
        for place, title in enumerate(plain)
    ]


def here(shared: Engine, offered: Sequence[str]) -> list[str]:
    """Those of the checkpoints on offer that need no download, and the one that is downloaded in any case."""
    return [
        name
        for name in offered
        if name == shared.preferred or shared.loader.known(name) or load.is_local(name)
    ]


def first_choice(shared: Engine, chosen: str, offered: Sequence[str]) -> list[str]:
    """What a first look compares: the checkpoint in use, and another that can be had at once."""
    others = [
        name
        for name in here(shared, offered)
        if name != chosen and shared.loader.status(name).state != "failed"
    ]
    at_once = [name for name in others if shared.loader.known(name) or load.is_local(name)]
    return [chosen, *at_once[:1]]


def cost(shared: Engine, entrant: Entrant) -> Cost | None:
    """What it costs, as far as that is known; None before it was loaded."""
    encoder = entrant.encoder
    if encoder is None:
        return None
    speed = shared.stopwatch.speed(encoder.checkpoint)
    return Cost(encoder.checkpoint, encoder.device, encoder.dtype, shared.loader.cost(entrant.name), speed)


def timed(shared: Engine, entrant: Entrant) -> bool:
    """Whether its speed is known."""
    return bool(entrant.encoder and shared.stopwatch.speed(entrant.encoder.checkpoint))


def settled(shared: Engine, entrant: Entrant) -> bool:
    """Whether nothing more is to come of it."""
    done = entrant.complete and timed(shared, entrant)
    return not entrant.status.busy and (done or bool(entrant.reason))


def try_again(shared: Engine, name: str) -> None:
    """Give a checkpoint that failed another chance."""
    st.session_state.get(_BROKEN, {}).pop(name, None)
    shared.loader.start(name)


def set_aside(name: str, reason: str) -> None:
    """Compare the others without it."""
    st.session_state.setdefault(_BROKEN, {})[name] = reason


def want_nothing() -> None:
    """Forget what an earlier run wanted: one that a click ended half-way did no work and says nothing of this page."""
    st.session_state.pop(_TASK, None)


def want(task: Task) -> None:
    """Have the task worked on at the end of this run of the script, and of no other."""
    st.session_state[_TASK] = task


def busy(shared: Engine, space: Workspace) -> bool:
    """Whether this run's page still waits for checkpoints; no other one is then loaded beside them.

    The session then works with those alone: with the one in the sidebar, too, two would not fit into a small machine.
    """
    task: Task | None = st.session_state.get(_TASK)
    entrants = look(shared, task) if task else []
    following = _next(shared, entrants)
    wanted = [each.name for each in entrants if not (each.complete or each.reason)]
    if following and following.name not in wanted:
        wanted.append(following.name)
    st.session_state[COMPARED] = tuple(wanted)
    if wanted:
        shared.loader.use(wanted[0], space, *wanted[1:])
    return bool(wanted)


def work(shared: Engine) -> bool:
    """Load, encode and time what this run's page wants, for one time slice; called at the end of every page.

    Returns:
        Whether the page must be drawn again.
    """
    task: Task | None = st.session_state.pop(_TASK, None)
    entrants = look(shared, task) if task else []
    entrant = _next(shared, entrants)
    if task is None or entrant is None:
        return False
    encoder = shared.loader.encoder(entrant.name)
    # The embedded model is an encoder from the start; what loading it costs is known once it was loaded.
    idle = shared.loader.status(entrant.name).state == "idle"
    if encoder is None or (idle and entrant.complete):
        shared.loader.start(entrant.name)  # the page looks again until it is there
        return False
    if entrant.complete and any(each.status.state == "loading" for each in entrants):
        return False  # loading beside it would spoil the timing
    try:
        _work(shared, task, entrant, watched(encoder))
    except ReleasedCheckpointError:
        pass  # another session needed the room; it is asked for again
    except CheckpointError as error:
        set_aside(entrant.name, str(error))
    return True


def _next(shared: Engine, entrants: Sequence[Entrant]) -> Entrant | None:
    """Whose turn it is: rankings go before timings, what is loaded before what is not, local before the hub.

    Nothing is asked for while another one of them loads: it would wait for room that this session itself takes.
    """

    def absent(entrant: Entrant) -> bool:
        return shared.loader.encoder(entrant.name) is None

    usable = [entrant for entrant in entrants if not entrant.reason]
    waiting = [entrant for entrant in usable if not entrant.complete]
    loaded = [entrant for entrant in waiting if not absent(entrant)]
    loading = [entrant for entrant in waiting if entrant.status.state == "loading"]
    if loaded or loading:
        return [*loaded, *loading][0]
    idle = [entrant for entrant in waiting if not entrant.status.busy]
    if idle:
        return min(idle, key=lambda each: not load.is_local(each.name))
    untimed = [entrant for entrant in usable if entrant.complete and not timed(shared, entrant)]
    return min(untimed, key=lambda each: (absent(each), not each.status.busy), default=None)


def _work(shared: Engine, task: Task, entrant: Entrant, encoder: CachedEncoder) -> None:
    until = time.monotonic() + TIME_SLICE
    images, prompts = encoder.missing(task.images), encoder.missing_captions(task.prompts)
    timing = not (images or prompts)
    title = views.plain(entrant.title)
    bar = st.sidebar.progress(0.0, f"{title}: encoding")
    while time.monotonic() < until and (images or prompts or timing):
        if timing:
            bar.progress(0.5, f"{title}: measuring its speed")
            shared.stopwatch.step(encoder)
            timing = shared.stopwatch.speed(encoder.checkpoint) is None
            continue
        if images:
            encoder.encode_images(images[:STEP])
            images = images[STEP:]
        else:
            encoder.encode_captions(prompts[:BATCH])
            prompts = prompts[BATCH:]
        total = len(task.images) + len(task.prompts)
        bar.progress(
            1 - (len(images) + len(prompts)) / max(1, total),
            f"{title}: {progress(task, len(images), len(prompts))}",
        )


def progress(task: Task, images: int, prompts: int) -> str:
    """How much is encoded, in words.

    Args:
        task: what is wanted.
        images: still to be encoded.
        prompts: still to be encoded.
    """
    if images:
        return f"{len(task.images) - images} of {len(task.images)} images encoded"
    return f"{len(task.prompts) - prompts} of {len(task.prompts)} captions encoded"
