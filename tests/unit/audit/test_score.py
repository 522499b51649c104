"""Every file is read once, every image and caption encoded once, and every row kept."""

import io
import json
import threading

import numpy as np
import pytest
from loopback_server import running
from pictures import png
from plain_encoder import SQUARES, PlainEncoder, Shelf, csv_of, scored, square_png, table_of
from stand_in_network import World
from tiny_checkpoints import COLOURS

from clipdemo.audit import score
from clipdemo.audit.footprint import Footprint
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import CHUNK, Plan, begin, score_table
from clipdemo.errors import LedgerError
from clipdemo.images import pool
from clipdemo.images.fetch import fetch_bytes
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.tables.row import MAX_CAPTION
from clipdemo.tables.table import open_table
from clipdemo.view import TowerView

MANY = [(f"{colour}.png", f"a {colour} square {n % 7}") for n in range(60) for colour in COLOURS]


def errors(ledger):
    return [row.error for row in ledger.rows()]


def test_each_image_is_read_and_encoded_once_and_each_caption_encoded_once():
    shelf, encoder, table = Shelf(), PlainEncoder(), table_of(MANY)
    ledger = scored(table, encoder, locate=shelf.locate)
    assert ledger.row_count == len(MANY) > 3 * CHUNK
    assert shelf.read == dict.fromkeys(SQUARES, 1)
    assert encoder.images == dict.fromkeys(SQUARES, 1)
    assert encoder.captions == dict.fromkeys({caption for _, caption in MANY}, 1)


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize(
    "before", [[("red.png", "")] * CHUNK, [("red.png", "x" * (MAX_CAPTION + 1))] * CHUNK]
)
def test_an_image_first_named_by_unusable_rows_is_still_read_once(before, workers):
    shelf = Shelf()
    ledger = scored(
        table_of([*before, *[("red.png", "a red square")] * 200]),
        PlainEncoder(),
        locate=shelf.locate,
        plan=Plan(Limits(), workers=workers, batch_size=1),
    )
    assert len(ledger.pairs()[0]) == 200
    assert shelf.read == {"red.png": 1}


@pytest.mark.parametrize("thumbnails", [False, True])
def test_thumbnails_are_made_only_if_asked_for(thumbnails, monkeypatch):
    decoded = []

    def decode(*args, **options):
        decoded.append(pool.decode_image(*args, **options))
        return decoded[-1]

    monkeypatch.setattr(score, "decode_image", decode)
    ledger = scored(table_of(MANY), PlainEncoder(), plan=Plan(Limits(), thumbnails=thumbnails))
    assert [bool(item.thumbnail) for item in decoded] == [thumbnails] * len(SQUARES)
    assert (ledger.thumbnail(0) in {item.thumbnail for item in decoded}) is thumbnails


def test_images_are_decoded_for_the_view_of_the_encoder():
    class Looking(PlainEncoder):
        view = TowerView((9, 7), 3)

        def encode_images(self, items):
            assert {(item.view, item.image.size) for item in items} == {(self.view, (9, 7))}
            return super().encode_images(items)

    assert not any(errors(scored(table_of(MANY), Looking())))


def test_the_next_batch_is_decoded_while_one_is_encoded(monkeypatch):
    decoded, late = threading.Semaphore(0), []

    def decode(*args, **options):
        item = pool.decode_image(*args, **options)
        decoded.release()
        return item

    class Waiting(PlainEncoder):
        def encode_images(self, items):
            left = len(files) - self.images.total() - len(items)
            # Of those after this batch, one batch is decoded while the encoder is busy, or all there are.
            for _ in range(min(left, 4) + len(items) if not self.images else min(left, 4)):
                late.append(not decoded.acquire(timeout=60))
            return super().encode_images(items)

    monkeypatch.setattr(score, "decode_image", decode)
    files = {f"{n}.png": square_png("red", 8 + n) for n in range(22)}
    table = table_of([(name, "red") for name in files])
    scored(table, Waiting(), locate=Shelf(files).locate, plan=Plan(Limits(), workers=1, batch_size=4))
    assert late
    assert not any(late)


def test_an_unreadable_file_is_tried_once():
    shelf = Shelf()
    ledger = scored(
        table_of([("gone.png", f"caption {n}") for n in range(200)]), PlainEncoder(), locate=shelf.locate
    )
    assert shelf.read == {"gone.png": 1}
    assert set(errors(ledger)) == {"no such file: 'gone.png' is not on the shelf"}


def test_the_same_bytes_under_two_names_are_encoded_once():
    shelf, encoder = Shelf({**SQUARES, "copy.png": SQUARES["red.png"]}), PlainEncoder()
    ledger = scored(
        table_of([("red.png", "a"), ("blue.png", "b"), ("copy.png", "c")]), encoder, locate=shelf.locate
    )
    assert ledger.image_count == 2
    assert encoder.images.total() == 2
    assert ledger.duplicates() == {0}
    assert ledger.file("copy.png") == ledger.file("red.png")


def test_failed_rows_leave_the_others_and_say_why():
    shelf = Shelf({**SQUARES, "page.png": b"<html>not an image</html>", "huge.png": png(size=(90, 90))})
    rows = [
        ("red.png", "a red square"),
        ("", "no image"),
        ("red.png", " \t"),
        ("page.png", "a page"),
        ("huge.png", "a huge one"),
        ("gone.png", "gone"),
        ("red.png", "word " * 4000),
        ("red.png",),
        ("red.png", "a red square", "one too many"),
        (" blue.png ", "  a   blue\nsquare "),
    ]
    ledger = scored(table_of(rows), PlainEncoder(), locate=shelf.locate, plan=Plan(Limits(pixels=8000)))
    found = errors(ledger)
    assert [number for number, error in enumerate(found) if not error] == [0, 9]
    for error, words in zip(
        found[1:9],
        [
            "cell is empty",
            "no caption",
            "not an image",
            "too large",
            "no such file",
            "19,999",
            "1 cell",
            "3 cells",
        ],
        strict=True,
    ):
        assert words in error
    numbers, _, cosines = ledger.pairs()
    assert numbers.tolist() == [0, 9]
    assert cosines == pytest.approx(1, abs=1e-6)


def test_half_a_surrogate_pair_fails_its_row_alone():
    lines = [{"image": "red.png", "caption": "a red \ud83d"}, {"image": "\ud83d.png", "caption": "x"}]
    data = "\n".join(map(json.dumps, [*lines, {"image": "red.png", "caption": "red"}])).encode()
    ledger = scored(open_table("t.jsonl", lambda: io.BytesIO(data)), PlainEncoder())
    assert not errors(ledger)[2]
    assert ledger.row_count == 3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_do_not_change_a_cosine(batch_size):
    table = table_of(MANY)
    plain = scored(table, PlainEncoder()).pairs()
    batched = scored(table, PlainEncoder(), plan=Plan(Limits(), workers=1, batch_size=batch_size)).pairs()
    for one, other in zip(plain, batched, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_cosines_equal_the_dot_products_of_the_encoder():
    encoder, table = PlainEncoder(), table_of(MANY)
    _, pairs, cosines = scored(table, encoder).pairs()
    images = np.stack([PlainEncoder()._caption(f"{name.removesuffix('.png')}") for name, _ in MANY])
    captions = encoder.encode_captions([caption for _, caption in MANY])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, (images * captions).sum(axis=1), atol=1e-5)
    assert pairs.tolist() == [[number % 8, at] for number, at in enumerate(caption_ids(MANY))]


def caption_ids(rows):
    seen = {}
    return [seen.setdefault(caption, len(seen)) for _, caption in rows]


def test_an_embedding_that_is_nan_fails_its_row_and_is_not_a_rival():
    class Broken(PlainEncoder):
        def encode_images(self, items):
            rows = super().encode_images(items)
            rows[[item.name == "red.png" for item in items]] = np.nan
            return rows

        def _caption(self, caption):
            return super()._caption(caption) * (np.nan if caption == "broken" else 1)

    rows = [("red.png", "red"), ("blue.png", "blue"), ("green.png", "broken"), ("green.png", "green")]
    ledger = scored(table_of(rows), Broken())
    image, fine, caption, also_fine = errors(ledger)
    assert "embedding of the image is NaN or infinite" in image
    assert "embedding of the caption is NaN or infinite" in caption
    assert (fine, also_fine) == ("", "")
    assert ledger.pairs()[0].tolist() == [1, 3]
    assert np.isfinite(np.concatenate([*ledger.image_blocks(), *ledger.caption_blocks()])).all()


def test_an_empty_table_has_no_rows():
    ledger = scored(table_of([]), PlainEncoder())
    assert (ledger.row_count, ledger.image_count) == (0, 0)


def test_a_run_resumes_where_it_was_stopped(tmp_path):
    table, shelf, encoder = table_of(MANY), Shelf(), PlainEncoder()
    plan = Plan(Limits(), workers=2, batch_size=4)
    ledger = Ledger(tmp_path / "progress")
    chunks = score_table(table, shelf.locate, encoder, ledger, Footprint(), plan)
    assert [next(chunks), next(chunks)] == [CHUNK, 2 * CHUNK]
    chunks.close()
    ledger.close()
    again = Ledger(tmp_path / "progress")
    assert again.row_count == 2 * CHUNK
    scored(table, encoder, locate=shelf.locate, ledger=again, plan=plan)
    assert [row.number for row in again.rows()] == list(range(len(MANY)))
    assert encoder.images == dict.fromkeys(SQUARES, 1)
    assert encoder.captions == dict.fromkeys({caption for _, caption in MANY}, 1)
    whole = scored(table, PlainEncoder(), plan=plan)
    for one, other in zip(whole.pairs(), again.pairs(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_complete_run_has_nothing_left_to_do():
    table, encoder = table_of(MANY), PlainEncoder()
    ledger = scored(table, encoder)
    shelf = Shelf()
    scored(table, encoder, ledger=ledger, locate=shelf.locate)
    assert not shelf.read
    assert ledger.row_count == len(MANY)


ABOUT = {"table": "a", "checkpoint": "b", "folder of images": "c"}


def test_a_new_ledger_is_described_and_an_agreeing_one_resumed():
    ledger = Ledger()
    assert begin(ledger, ABOUT) == 0
    scored(table_of([("red.png", "red")]), PlainEncoder(), ledger=ledger)
    assert begin(ledger, ABOUT) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"table": "z"}, "a different table;"),
        ({"checkpoint": "z"}, "a different checkpoint;"),
        ({"table": "z", "folder of images": "z"}, "a different table and a different folder of images;"),
    ],
)
def test_differences_from_the_run_to_resume_are_named(changed, words):
    ledger = Ledger()
    begin(ledger, ABOUT)
    with pytest.raises(LedgerError, match=words):
        begin(ledger, ABOUT | changed)


LIMITS = Limits(file_bytes=1_000_000, url_seconds=0.5)


def test_addresses_are_fetched_and_a_silent_server_does_not_stop_the_others():
    good = [f"http://pictures.test/image/{n}" for n in range(6)]
    with running() as server:
        world, inside = World(server), World(server, ["10.0.0.1"])

        def locate(cell):
            network = inside if "intranet" in cell else world
            return Source(cell, "url", lambda: fetch_bytes(cell, LIMITS, network=network))

        cells = ["http://pictures.test/silent", *good, "http://pictures.test/status/404"]
        cells += ["http://pictures.test/typed/text%2fhtml", "http://intranet.test/image"]
        table = table_of([(cell, "a red square") for cell in [*cells, *good]])
        footprint, ledger = Footprint(), Ledger()
        plan = Plan(LIMITS, workers=2, batch_size=4)
        list(score_table(table, locate, PlainEncoder(), ledger, footprint, plan))
        asked = sorted(path for path, _ in server.requests if path.startswith("/image"))
    assert asked == [f"/image/{n}" for n in range(6)]
    found = errors(ledger)
    assert found[0].startswith("timed out")
    assert found[7].startswith("not reachable")
    assert found[8].startswith("not an image")
    assert found[9].startswith("blocked")
    assert not any(found[1:7] + found[10:])
    assert ledger.image_count == 1  # the server gives the same picture each time
    assert {stage.name: stage.items for stage in footprint.stages}["fetch"] == len(cells)


def test_the_caller_gets_control_back_while_a_file_is_loading():
    release = threading.Event()

    def locate(cell):
        return Source(cell, "url", lambda: square_png("red") if release.wait(20) else b"")

    plan = Plan(Limits(), patience=0.01)
    ledger = Ledger()
    chunks = score_table(table_of([("a", "red")]), locate, PlainEncoder(), ledger, Footprint(), plan)
    assert [next(chunks), next(chunks)] == [0, 0]
    release.set()
    assert list(chunks)[-1] == 1


def test_stages_are_counted():
    footprint, ledger = Footprint(), Ledger()
    table = table_of([*MANY, ("gone.png", "gone")])
    list(score_table(table, Shelf().locate, PlainEncoder(), ledger, footprint, Plan(Limits())))
    items = {stage.name: stage.items for stage in footprint.stages}
    assert items == {"read": 9, "decode": 8, "encode images": 8, "encode captions": 56}


def test_a_table_of_another_encoding_is_scored_alike():
    data = csv_of([("red.png", "café red")]).decode().encode("cp1252")
    ledger = scored(open_table("t.csv", lambda: io.BytesIO(data)), PlainEncoder())
    assert ledger.caption_text(0) == ("café red", False)
