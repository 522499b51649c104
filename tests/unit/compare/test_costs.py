"""What is measured, never how long it takes."""

import threading

import pytest
from plain_encoder import PlainEncoder

from clipdemo.compare import costs
from clipdemo.compare.costs import Stopwatch
from clipdemo.errors import ReleasedCheckpointError
from clipdemo.models.cache import CachedEncoder, EmbeddingStore, FairLock
from clipdemo.models.load import load_encoder

CAPTIONS = [f"caption {n}" for n in range(5)]


def cached(encoder, lock=None):
    return CachedEncoder(encoder, EmbeddingStore(10**6), lock or FairLock())


def run(stopwatch, encoder):
    steps = 0
    while stopwatch.speed(encoder.checkpoint) is None:
        stopwatch.step(encoder)
        steps += 1
    return steps


@pytest.mark.parametrize("family", ["colour_clip", "tiny_siglip", "tiny_siglip2"])
def test_a_real_checkpoint_is_timed_after_a_warm_up_and_leaves_nothing_behind(family, request, colour_items):
    encoder = cached(load_encoder(request.getfixturevalue(family)))
    stopwatch = Stopwatch(colour_items[:2], CAPTIONS)
    steps = run(stopwatch, encoder)
    speed = stopwatch.speed(encoder.checkpoint)
    assert speed.batches == steps - 1 >= costs.MIN_BATCHES
    assert (speed.images, speed.captions) == (2, 5)
    assert speed.image_ms > 0
    assert speed.caption_ms > 0
    assert len(encoder.missing(colour_items)) == len(colour_items)


def test_stored_embeddings_are_computed_again(colour_items):
    plain = PlainEncoder()
    encoder = cached(plain)
    encoder.encode_images(colour_items[:1])
    steps = run(Stopwatch(colour_items[:1], CAPTIONS), encoder)
    assert plain.images[colour_items[0].name] == 1 + steps


def test_a_checkpoint_is_timed_once_until_its_measurement_is_discarded(colour_items):
    plain = PlainEncoder()
    encoder, stopwatch = cached(plain), Stopwatch(colour_items[:1], CAPTIONS)
    run(stopwatch, encoder)
    encoded = sum(plain.images.values())
    stopwatch.step(encoder)
    assert sum(plain.images.values()) == encoded
    stopwatch.forget(encoder.checkpoint)
    assert stopwatch.speed(encoder.checkpoint) is None
    run(stopwatch, encoder)
    assert sum(plain.images.values()) == 2 * encoded


def test_a_slow_checkpoint_is_timed_three_times_and_no_more(colour_items, monkeypatch):
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    stopwatch, encoder = Stopwatch(colour_items[:4], CAPTIONS), cached(PlainEncoder())
    assert run(stopwatch, encoder) == 1 + costs.MIN_BATCHES
    assert stopwatch.speed(encoder.checkpoint).image_ms == 1000 * 50 / 4
    assert stopwatch.speed(encoder.checkpoint).caption_ms == 1000 * 50 / 5


def test_others_get_the_lock_between_two_batches(colour_items):
    lock = FairLock()
    encoder, stopwatch = cached(PlainEncoder(), lock), Stopwatch(colour_items[:1], CAPTIONS)
    served = threading.Event()
    with lock.acquire():
        timing = threading.Thread(target=run, args=(stopwatch, encoder), daemon=True)
        timing.start()
        other = threading.Thread(target=lambda: lock.acquire().__enter__() or served.set(), daemon=True)
        other.start()
        assert not served.wait(0.05)
    assert served.wait(10)


def test_released_weights_are_not_timed(colour_items):
    encoder = cached(PlainEncoder())
    encoder.release()
    with pytest.raises(ReleasedCheckpointError):
        Stopwatch(colour_items[:1], CAPTIONS).step(encoder)


def test_loading_has_its_own_cost(colour_clip):
    from clipdemo.models.loader import Loader

    loader, name = Loader(EmbeddingStore(10**6)), str(colour_clip)
    assert loader.cost(name) is loader.known(name) is None
    loader.start(name)
    loader.wait(name)
    assert loader.known(name) is loader.encoder(name)
    assert loader.cost(name).held_bytes >= loader.encoder(name).checkpoint.parameters
