"""Real checkpoints on a machine with little memory; the memory is simulated in all tests but the last."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_checkpoints import save_colour_clip, save_sized_clip

from clipdemo.errors import NotEnoughMemoryError, ReleasedCheckpointError
from clipdemo.memory import Memory, Room
from clipdemo.models import governor
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.governor import Governor, suggest_smaller
from clipdemo.models.load import load_encoder
from clipdemo.models.loader import Loader

MB = 10**6
STEPS = Path(__file__).parents[2] / "small_machine.py"


class Session:
    """Owner of a claim."""


class SmallMachine(Memory):
    """A machine with room for ``places`` tiny checkpoints, which count 150 MB each; their loads are real."""

    def __init__(self, places):
        super().__init__()
        self.places, self.governor = places, None

    def room(self):
        return Room(150 * self.places * MB, 150 * MB * len(self.governor.loaded_bytes))


class Heavy(Governor):
    """Counts each tiny checkpoint as 150 MB, as ``SmallMachine`` does."""

    def add_loaded(self, name, encoder):
        measured = super().add_loaded(name, encoder)
        self._loaded[name].nbytes = 150 * MB
        return measured


class Clock:
    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def loader_with(monkeypatch, clock):
    monkeypatch.setattr(governor, "POLL_SECONDS", 0.02)

    def make(places, load=load_encoder):
        machine = SmallMachine(places)
        machine.governor = Heavy(machine, now=clock)
        machine.governor.note_first_use()
        return Loader(EmbeddingStore(MB), load, machine.governor)

    return make


@pytest.fixture(scope="module")
def trio(tmp_path_factory, colour_clip):
    """Three checkpoints by name."""
    folders = [save_colour_clip(tmp_path_factory.mktemp(f"clip-{n}"), seed=n) for n in (1, 2)]
    return [str(colour_clip), *map(str, folders)]


def load_now(loader, name, session=None):
    if session:
        loader.use(name, session)
    loader.start(name)
    return loader.wait(name)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_least_recently_used_one_makes_room(loader_with, trio):
    first, second, third = trio
    loader = loader_with(2)
    assert load_now(loader, first).state == load_now(loader, second).state == "ready"
    kept = loader.encoder(first)
    loader.governor._loaded[second].used_at -= 1  # the clock stands still
    assert load_now(loader, third).state == "ready"
    assert loader.encoder(first) is kept
    assert loader.encoder(second) is None
    assert loader.status(second).state == "idle"


def test_a_released_encoder_still_returns_its_cached_rows(loader_with, trio):
    first, second, _ = trio
    loader = loader_with(1)
    load_now(loader, first)
    row = loader.encoder(first).encode_captions(["red"])
    load_now(loader, second)
    known = loader.known(first)
    assert known.released
    assert (known.encode_captions(["red"]) == row).all()
    with pytest.raises(ReleasedCheckpointError):
        known.encode_captions(["never seen"])
    assert loader.cost(first).held_bytes > 0
    assert load_now(loader, first).state == "ready"
    assert loader.encoder(first).encode_captions(["never seen"]).shape == (1, 16)


def test_a_checkpoint_in_use_is_never_released_and_the_other_waits_until_the_session_ends(loader_with, trio):
    first, second, _ = trio
    loader = loader_with(1)
    here, there = Session(), Session()
    load_now(loader, first, here)
    kept = loader.encoder(first)
    loader.use(second, there)
    loader.start(second)
    wait_until(lambda: loader.status(second).state == "waiting")
    assert "is in use" in loader.status(second).reason
    assert loader.status(second).busy
    assert loader.encoder(first) is kept
    assert not kept.released
    del here
    gc.collect()
    assert loader.wait(second).state == "ready"
    assert kept.released


def test_a_session_that_switches_to_another_checkpoint_frees_the_first(loader_with, trio):
    loader = loader_with(1)
    session = Session()
    load_now(loader, trio[0], session)
    assert load_now(loader, trio[1], session).state == "ready"
    assert loader.encoder(trio[0]) is None


def test_a_claim_that_is_not_renewed_expires(loader_with, trio, clock):
    loader = loader_with(1)
    here, there = Session(), Session()
    load_now(loader, trio[0], here)
    clock.at += governor.CLAIM_SECONDS + 1
    assert load_now(loader, trio[1], there).state == "ready"


def test_waiting_ends_with_a_sentence(loader_with, trio, clock):
    loader = loader_with(1)
    here, there = Session(), Session()
    load_now(loader, trio[0], here)
    loader.use(trio[1], there)
    loader.start(trio[1])
    wait_until(lambda: loader.status(trio[1]).state == "waiting")
    clock.at += governor.MAX_WAIT_SECONDS
    status = loader.wait(trio[1])
    assert status.state == "failed"
    assert "is in use, try later" in status.reason
    assert not loader.encoder(trio[0]).released
    assert load_now(loader, trio[0], here).state == "ready"


def test_a_load_without_a_session_neither_waits_nor_displaces_another(loader_with, trio):
    loader = loader_with(1)
    here = Session()
    load_now(loader, trio[0], here)
    assert load_now(loader, trio[1]).state == "failed"
    assert loader.encoder(trio[0])


def test_a_load_whose_visitor_leaves_while_it_waits_has_not_failed(loader_with, trio):
    loader = loader_with(1)
    here, there = Session(), Session()
    load_now(loader, trio[0], here)
    loader.use(trio[1], there)
    loader.start(trio[1])
    wait_until(lambda: loader.status(trio[1]).state == "waiting")
    loader.use(trio[2], there)
    assert loader.wait(trio[1]).state == "idle"
    assert not loader.encoder(trio[0]).released


def test_every_load_that_ends_restarts_the_waiting_time(loader_with, trio, clock):
    loader = loader_with(1)
    here, there = Session(), Session()
    load_now(loader, trio[0], here)
    loader.use(trio[1], there)
    loader.start(trio[1])
    wait_until(lambda: loader.status(trio[1]).state == "waiting")
    clock.at += governor.MAX_WAIT_SECONDS - 1
    loader.governor.end_load(trio[2])
    clock.at += governor.MAX_WAIT_SECONDS - 1
    time.sleep(5 * governor.POLL_SECONDS)
    assert loader.status(trio[1]).state == "waiting"
    clock.at += 1
    assert "try later" in loader.wait(trio[1]).reason


def test_a_checkpoint_that_cannot_fit_is_refused_before_its_download_with_one_that_would(
    loader_with, colour_clip
):
    loader = loader_with(2)
    with pytest.raises(NotEnoughMemoryError) as refused:
        loader.governor.refuse_if_hopeless("owner/large-model", 1700 * MB)
    assert str(refused.value) == (
        "large-model needs about 2.2 GB of memory, and this machine has 300 MB free of 300 MB; try "
        "TinyCLIP ViT-8M/16 or the embedded model"
    )
    loader.governor.memory.places = 10
    with pytest.raises(NotEnoughMemoryError, match=r"try SigLIP ViT-B/16 or the embedded model"):
        loader.governor.refuse_if_hopeless("owner/large-model", 1700 * MB)


def test_a_refused_checkpoint_is_not_downloaded(loader_with, colour_clip, tmp_path, monkeypatch):
    from stand_in_hub import StandInHub

    with StandInHub({"owner/large": colour_clip}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        loader = loader_with(0)
        status = load_now(loader, "owner/large")
        assert status.state == "failed"
        assert "try the embedded model" in status.reason
        assert not list(tmp_path.rglob("blobs/*"))


def test_a_failed_load_leaves_no_memory_reserved(loader_with, trio, tmp_path):
    loader = loader_with(1)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "clip"}')
    (broken / "model.safetensors").write_bytes(b"no tensors")
    assert load_now(loader, str(broken)).state == "failed"
    assert load_now(loader, trio[0]).state == "ready"


def test_loads_that_overlap_are_admitted_one_after_the_other(loader_with, trio):
    loader, at_once, most = loader_with(3), [], []

    def noting(name, **hooks):
        gate = hooks["gate"]

        class Noting:
            refuse_if_hopeless = gate.refuse_if_hopeless

            def admit(self, *args):
                gate.admit(*args)
                at_once.append(args[0])
                most.append(len(at_once))

        encoder = load_encoder(name, on_progress=hooks["on_progress"], gate=Noting())
        time.sleep(0.05)
        at_once.remove(name)
        return encoder

    loader._load = noting
    for name in trio * 2:
        loader.start(name)
    assert {loader.wait(name).state for name in trio} == {"ready"}
    assert most == [1, 1, 1]


def test_twenty_sessions_that_keep_switching_never_lose_a_checkpoint_in_use(loader_with, trio):
    """A script run that claims first and then gets its encoder can encode, whatever other sessions do."""
    loader = loader_with(2)
    errors, done = [], []

    def session(number):
        me = Session()
        for step in range(6):
            name = trio[(number + step) % 3]
            loader.use(name, me)
            encoder = loader.encoder(name)
            if encoder is None:
                loader.start(name)
                continue
            try:
                encoder.encode_captions([f"{number} {step}"])
                done.append(name)
            except ReleasedCheckpointError as error:
                errors.append(error)

    for name in trio[:2]:
        load_now(loader, name)
    threads = [threading.Thread(target=session, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    assert not errors


def test_the_largest_of_the_catalogue_that_fits_is_suggested():
    assert suggest_smaller(900 * MB) == "CLIP ViT-B/32 or the embedded model"
    assert suggest_smaller(800 * MB) == "TinyCLIP ViT-8M/16 or the embedded model"
    assert suggest_smaller(200 * MB) == "the embedded model"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_rises_and_falls_on_a_small_machine(tmp_path):
    for name, layers in (("first", 4), ("second", 4), ("giant", 24)):
        save_sized_clip(tmp_path / name, layers, seed=layers)
    done = subprocess.run(
        [sys.executable, str(STEPS), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(STEPS.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    base, weights = seen["base"], 4 * 28.3 * MB
    assert seen["first"] > base + 0.9 * weights
    assert seen["second"] < base + 1.4 * weights  # both would take twice the weights
    assert seen["released"] < base + 0.4 * weights
    assert seen["held"] == pytest.approx(weights, rel=0.25)
    assert "needs about 954 MB of memory" in seen["refusal"]
    assert seen["waiting"] == ["waiting", "ready"]
