import threading
import time

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import square

from clipdemo.errors import ReleasedCheckpointError
from clipdemo.models.cache import CachedEncoder, EmbeddingStore, FairLock, caption_key
from clipdemo.models.clip.encoder import Origin, TransformersEncoder


class Counting:
    """The real encoder; records what it encodes."""

    def __init__(self, encoder):
        self.encoder, self.images, self.captions = encoder, [], []
        self.checkpoint, self.caption_tokens = encoder.checkpoint, encoder.caption_tokens
        self.view, self.device, self.dtype = encoder.view, encoder.device, encoder.dtype

    def encode_images(self, items):
        self.images += [item.name for item in items]
        return self.encoder.encode_images(items)

    def encode_captions(self, captions):
        self.captions += captions
        return self.encoder.encode_captions(captions)


@pytest.fixture
def counting(colour_clip):
    return Counting(TransformersEncoder(colour_clip, Origin("tiny", "local", "a" * 64, "folder")))


def cached(encoder, *, max_bytes=10**6, store=None):
    return CachedEncoder(encoder, store or EmbeddingStore(max_bytes), FairLock())


def test_sessions_share_embeddings_so_all_of_them_use_the_model_copy(counting):
    assert counting.encoder.view is not None
    assert cached(counting.encoder).view is None


def test_each_image_is_encoded_once_however_often_it_is_asked_for(counting, colour_items):
    encoder = cached(counting)
    first = encoder.encode_images(colour_items)
    again = encoder.encode_images([*colour_items[::-1], *colour_items])
    assert sorted(counting.images) == sorted(item.name for item in colour_items)
    np.testing.assert_array_equal(again, np.concatenate([first[::-1], first]))


def test_a_new_caption_encodes_only_itself(counting):
    encoder = cached(counting)
    encoder.encode_captions(["red", "blue"])
    encoder.encode_captions(["red", "green", "blue"])
    assert counting.captions == ["red", "blue", "green"]


def test_the_same_image_twice_in_one_call_is_encoded_once(counting, colour_items):
    rows = cached(counting).encode_images([colour_items[0], colour_items[0]])
    assert counting.images == [colour_items[0].name]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_more_than_a_batch_keeps_its_order(counting, item_of):
    items = [item_of(Image.new("RGB", (40, 40), (n * 5, 255 - n * 5, 128)), str(n)) for n in range(40)]
    np.testing.assert_allclose(
        cached(counting).encode_images(items), counting.encoder.encode_images(items), atol=1e-5
    )


def test_missing_images_are_listed_without_encoding(counting, colour_items):
    encoder = cached(counting)
    encoder.encode_images(colour_items[:3])
    assert encoder.missing(colour_items) == colour_items[3:]
    assert len(counting.images) == 3


def test_sessions_that_ask_at_once_share_the_work(counting, colour_items):
    encoder = cached(counting)
    barrier, results = threading.Barrier(8), []

    def session():
        barrier.wait()
        results.append(encoder.encode_images(colour_items))

    threads = [threading.Thread(target=session) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 8
    assert len(counting.images) == len(colour_items)
    for rows in results[1:]:
        np.testing.assert_array_equal(rows, results[0])


def test_two_checkpoints_never_share_an_embedding(colour_clip, tiny_siglip, colour_items):
    store = EmbeddingStore(10**6)
    encoders = [
        cached(TransformersEncoder(folder, Origin(str(folder), "local", str(folder), "folder")), store=store)
        for folder in (colour_clip, tiny_siglip)
    ]
    dims = [encoder.encode_images(colour_items).shape[1] for encoder in encoders]
    assert dims == [16, 32]
    assert dims == [encoder.encode_images(colour_items).shape[1] for encoder in encoders]


def test_the_store_is_bounded_and_drops_the_least_recently_used():
    store = EmbeddingStore(max_bytes=3 * 16)
    row = np.ones(4, dtype=np.float32)
    for name in ("a", "b", "c"):
        store.add({("f", name): row})
    store.find([("f", "a")])
    store.add({("f", "d"): row})
    assert set(store.find([("f", name) for name in "abcd"])) == {("f", "a"), ("f", "c"), ("f", "d")}
    assert store.nbytes == 48


def test_a_cached_row_does_not_keep_its_batch_alive():
    store = EmbeddingStore(10**6)
    batch = np.ones((100, 4), dtype=np.float32)
    store.add({("f", "a"): batch[0]})
    assert store.find([("f", "a")])["f", "a"].base is None


def test_an_image_set_larger_than_the_store_is_still_encoded(counting, colour_items):
    rows = cached(counting, max_bytes=64).encode_images(colour_items)
    np.testing.assert_allclose(rows, counting.encoder.encode_images(colour_items), atol=1e-5)


def test_the_lock_is_given_in_the_order_of_arrival():
    lock, order, threads = FairLock(), [], []

    def visitor(name):
        with lock.acquire():
            order.append(name)

    with lock.acquire():
        for name in range(5):
            threads.append(threading.Thread(target=visitor, args=(name,)))
            threads[-1].start()
            time.sleep(0.02)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]


def test_owners_take_turns_however_many_requests_one_has():
    lock, order, threads = FairLock(), [], []

    def visitor(owner, number):
        with lock.acquire(owner=owner):
            order.append(f"{owner}{number}")

    with lock.acquire(owner="a"):
        for owner, number in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)]:
            threads.append(threading.Thread(target=visitor, args=(owner, number)))
            threads[-1].start()
            while len(lock._waiting) <= len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert order == ["b1", "c1", "a1", "b2", "a2", "a3"]


def test_a_turn_of_a_slow_checkpoint_takes_fewer_inputs(counting, item_of, monkeypatch):
    encoder, sizes, clock = cached(counting), [], [0.0]
    monkeypatch.setattr("clipdemo.models.cache.time.perf_counter", lambda: clock[0])

    def encode(items):
        sizes.append(len(items))
        clock[0] += 0.4 * len(items)  # seconds
        return counting.encoder.encode_images(items)

    monkeypatch.setattr(encoder, "_encode_images", encode)
    encoder.encode_images([item_of(square("red"), str(number)) for number in range(9)])
    assert sizes == [4, 2, 2, 1]


def test_the_wait_callback_gets_the_number_ahead_and_may_end_the_waiting():
    lock, told = FairLock(), []

    class LeavesError(Exception):
        pass

    def leave(before):
        told.append(before)
        if len(told) == 3:
            raise LeavesError

    with lock.acquire(), pytest.raises(LeavesError), lock.acquire(leave):
        pass
    with lock.acquire():  # the one that left does not block others
        pass
    assert told == [1, 1, 1]


def test_the_wait_callback_gets_zero_when_the_waiting_ends():
    lock, told, waits = FairLock(), [], threading.Event()

    def note(before):
        told.append(before)
        waits.set()

    def wait():
        with lock.acquire(note):
            pass

    with lock.acquire():
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait(10)
    thread.join(10)
    assert told[0] == 1
    assert told[-1] == 0


def test_a_caption_waits_for_at_most_one_batch_of_each_other_visitor(counting, colour_items):
    """Two visitors with many images each keep encoding; the third needs a single caption."""
    store, lock, order = EmbeddingStore(10**6), FairLock(), []

    class Noting(Counting):
        def encode_images(self, items):
            order.append("images")
            return super().encode_images(items)

        def encode_captions(self, captions):
            order.append("caption")
            return super().encode_captions(captions)

    encoder = CachedEncoder(Noting(counting.encoder), store, lock)
    batches = [colour_items[:4], colour_items[4:]]
    threads = [threading.Thread(target=encoder.encode_images, args=(batch,)) for batch in batches]
    threads.append(threading.Thread(target=encoder.encode_captions, args=(["red"],)))
    threads += [threading.Thread(target=encoder.encode_images, args=(batch[:1],)) for batch in batches]
    with lock.acquire():
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert order == ["images", "images", "caption"]  # the last two found theirs cached


def test_a_released_encoder_returns_cached_rows_and_explains_why_others_fail(counting, colour_items):
    encoder = cached(counting)
    rows = encoder.encode_images(colour_items[:3])
    captions = encoder.encode_captions(["red"])
    copied = encoder.for_session("visitor", lambda before: None)
    encoder.release()
    assert encoder.released
    assert copied.released
    assert copied.checkpoint == counting.checkpoint
    assert copied.missing_captions(["red", "blue"]) == ["blue"]
    np.testing.assert_array_equal(copied.encode_images(colour_items[:3]), rows)
    np.testing.assert_array_equal(copied.encode_captions(["red"]), captions)
    for use in (lambda: copied.encode_images(colour_items), lambda: encoder.caption_tokens("red")):
        with pytest.raises(ReleasedCheckpointError, match="released to make room"):
            use()


def test_the_lock_is_released_when_its_block_fails():
    lock = FairLock()
    with pytest.raises(ZeroDivisionError), lock.acquire():
        raise ZeroDivisionError
    with lock.acquire():
        pass


def test_captions_are_cached_by_hash_rather_than_text(counting):
    assert "secret" not in str(caption_key(counting.checkpoint, "a secret"))


def test_captions_are_batched_by_length_and_returned_in_order(counting):
    captions = ["red " * 9, "a blue square", "red", "red " * 9, "a pink square beside a black one"]
    rows = cached(counting).encode_captions(captions)
    assert counting.captions == sorted(set(captions), key=len)
    np.testing.assert_allclose(rows, counting.encoder.encode_captions(captions), atol=1e-5)
