import subprocess
import sys
import threading

import pytest
from PIL import Image

from clipdemo.errors import HubUnreachableError
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.models.hub.transfer import Progress
from clipdemo.models.load import load_encoder
from clipdemo.models.loader import Loader


@pytest.fixture
def store():
    return EmbeddingStore(10**6)


def test_a_checkpoint_becomes_ready_in_the_background(store, colour_clip):
    loader = Loader(store)
    name = str(colour_clip)
    assert loader.status(name).state == "idle"
    assert loader.encoder(name) is None
    loader.start(name)
    assert loader.wait(name).state == "ready"
    assert loader.encoder(name).checkpoint.source == "folder"


def test_loading_twice_at_once_happens_once(store, colour_clip):
    loads, go = [], threading.Event()

    def slow(name, **hooks):
        loads.append(name)
        go.wait(10)
        return load_encoder(name, **hooks)

    loader = Loader(store, slow)
    for _ in range(5):
        loader.start(str(colour_clip))
    go.set()
    loader.wait(str(colour_clip))
    loader.start(str(colour_clip))
    loader.wait(str(colour_clip))
    assert len(loads) == 1


def test_a_failure_keeps_its_sentence_and_can_be_retried(store, colour_clip):
    tries = []

    def flaky(name, **hooks):
        tries.append(name)
        if len(tries) == 1:
            raise HubUnreachableError("the hub does not answer")
        return load_encoder(str(colour_clip), **hooks)

    loader = Loader(store, flaky)
    loader.start("owner/name")
    failed = loader.wait("owner/name")
    assert (failed.state, failed.reason) == ("failed", "the hub does not answer")
    assert loader.encoder("owner/name") is None
    loader.start("owner/name")
    assert loader.wait("owner/name").state == "ready"


def test_progress_is_visible_during_the_download(store, colour_clip):
    seen, reported, go = [], threading.Event(), threading.Event()

    def downloading(name, *, on_progress, **hooks):
        on_progress(Progress(30, 100))
        reported.set()
        go.wait(10)
        on_progress(Progress(100, 100))
        seen.append(loader.status(name).state)
        return load_encoder(str(colour_clip), **hooks)

    loader = Loader(store, downloading)
    loader.start("owner/name")
    reported.wait(10)
    status = loader.status("owner/name")
    assert (status.state, status.progress, status.busy) == ("downloading", Progress(30, 100), True)
    go.set()
    loader.wait("owner/name")
    assert seen == ["loading"]


def test_one_checkpoint_waits_for_the_other_when_asked_to(store, colour_clip):
    order, go = [], threading.Event()

    def noting(name, **hooks):
        if name == "first":
            go.wait(10)
        order.append(name)
        return load_encoder(str(colour_clip), **hooks)

    loader = Loader(store, noting)
    loader.start("first")
    loader.start("second", after="first")
    go.set()
    loader.wait("second")
    assert order == ["first", "second"]


def test_the_embedded_model_is_available_from_the_start(store, item_of):
    encoder = Loader(store).encoder(EMBEDDED)
    assert encoder.encode_images([item_of(Image.new("RGB", (300, 200)))]).shape == (1, 386)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_error_is_a_failure_rather_than_an_endless_wait(store):
    def broken(name, **hooks):
        raise RuntimeError("CUDA out of memory")

    loader = Loader(store, broken)
    loader.start("owner/name")
    assert loader.wait("owner/name").state == "failed"


def test_two_checkpoints_started_at_once_in_a_fresh_process_both_load(colour_clip):
    """transformers' lazy names are not thread-safe; only a process that has not imported it shows that."""
    program = (
        "from clipdemo.models.cache import EmbeddingStore\n"
        "from clipdemo.models.loader import Loader\n"
        "loader = Loader(EmbeddingStore(10**6))\n"
        f"names = ['embedded', {str(colour_clip)!r}]\n"
        "for name in names: loader.start(name)\n"
        "states = [loader.wait(name) for name in names]\n"
        "assert [status.state for status in states] == ['ready', 'ready'], states\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("after", ["None", "'embedded'"])
def test_an_exiting_process_waits_for_torch_and_starts_no_other_load(after):
    program = f"""
import atexit, threading, time, torch
from clipdemo.models.cache import CachedEncoder, EmbeddingStore
from clipdemo.models.loader import Loader

started = threading.Event()

def work(*_, **__):
    started.set()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        torch.ones(200, 200) @ torch.ones(200, 200)

CachedEncoder.warm_up = work
loader = Loader(EmbeddingStore(10**6), work)
loader.start("embedded")
if {after}:
    loader.start("owner/name", after={after})
started.wait()
states = lambda: (loader.status("embedded").state, loader.status("owner/name").state)
atexit.register(lambda: (time.sleep(0.3), print(*states())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready idle\n", "")
