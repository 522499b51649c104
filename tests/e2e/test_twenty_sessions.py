"""Twenty visitors at once, each with captions of its own, who switch checkpoints on one real server."""

import dataclasses
import urllib.request

import crowd
import pytest
from sessions import Grid, Tile

from clipdemo.models.catalogue import EMBEDDED, title


@pytest.fixture(scope="module")
def visits(tmp_path_factory, colour_clip, tiny_siglip):
    log = tmp_path_factory.mktemp("crowd") / "log"
    with crowd.crowded(colour_clip, tiny_siglip, log) as (address, send):
        done = send()
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=60) as answer:
            healthy = answer.status == 200
    return done, healthy, log.read_text("utf-8")


def test_every_visitor_gets_the_right_answers_to_its_own_captions(visits):
    done, _, _ = visits
    assert len(done) == crowd.VISITORS
    for visit in done:
        assert not visit.errors
        assert not visit.wrong
        assert len(visit.captions) + len(visit.switches) == crowd.CHANGES


def test_the_server_survives_them_without_a_word_of_trouble(visits):
    _, healthy, log = visits
    assert healthy
    assert "Traceback" not in log
    assert "Error" not in log


def test_foreign_captions_and_wrong_cosines_would_be_noticed():
    right = {title(EMBEDDED): {"a cat": {f"{n}.jpg": 0.9 - n / 10 for n in range(6)}}}
    tiles = [Tile(n + 1, f"{n}.jpg", round(0.9 - n / 10, 3)) for n in range(crowd.TILES)]
    own = ("a cat",)
    assert not list(crowd.wrong_in(Grid(title(EMBEDDED), {"a cat": tiles}), right, own))
    assert list(crowd.wrong_in(Grid(title(EMBEDDED), {"a dog": tiles}), right, own))
    moved = [dataclasses.replace(tiles[0], cosine=0.2), *tiles[1:]]
    assert list(crowd.wrong_in(Grid(title(EMBEDDED), {"a cat": moved}), right, own))
    swapped = [tiles[1], tiles[0], *tiles[2:]]
    assert list(crowd.wrong_in(Grid(title(EMBEDDED), {"a cat": swapped}), right, own))


def test_the_checkpoints_disagree_so_that_one_cannot_pass_for_another(colour_clip, tiny_siglip):
    names = [EMBEDDED, str(colour_clip), str(tiny_siglip)]
    plans = crowd.plans(names[:2], names[2:])[:2]
    answers = crowd.answers(names, plans)
    caption = plans[0].captions[0]
    best = {title(name): sorted(answers[title(name)][caption].values())[-crowd.TILES :] for name in names}
    assert len({tuple(round(value, 2) for value in values) for values in best.values()}) == len(names)
