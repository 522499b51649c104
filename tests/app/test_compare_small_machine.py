"""The Compare page on a machine that holds one checkpoint at a time; real loads, simulated memory."""

import gc
import time

import pytest
from app_pages import compare_page, table, text_of
from streamlit.testing.v1 import AppTest
from tiny_checkpoints import save_colour_clip

from clipdemo.memory import Memory, Room
from clipdemo.models import governor
from clipdemo.models.governor import Governor
from clipdemo.models.load import load_encoder
from clipdemo.ui import state
from clipdemo.ui.workspace import Workspace

MB = 10**6


class OnePlace(Memory):
    """Room for one of the tiny checkpoints, which take 150 MB each."""

    governor = None

    def room(self):
        return Room(150 * MB, 150 * MB * len(self.governor.loaded_bytes))


class Heavy(Governor):
    """Takes each tiny checkpoint for one of 150 MB."""

    def add_loaded(self, name, encoder):
        measured = super().add_loaded(name, encoder)
        self._loaded[name].nbytes = 150 * MB
        return measured


@pytest.fixture(scope="module")
def trio(tmp_path_factory, colour_clip):
    folders = [save_colour_clip(tmp_path_factory.mktemp(f"small-{n}"), seed=n) for n in (1, 2)]
    return [str(colour_clip), *map(str, folders)]


def slowly(*args, **kwargs):
    """Real checkpoints take seconds to load, and pages are drawn meanwhile."""
    encoder = load_encoder(*args, **kwargs)
    time.sleep(0.8)
    return encoder


@pytest.fixture
def page(run_app, trio, monkeypatch):
    def small(_):
        room = OnePlace()
        room.governor = Heavy(room)
        room.governor.note_first_use()
        return room.governor

    monkeypatch.setattr(governor, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(state, "Governor", small)
    run_app(CLIPDEMO_CHECKPOINT=trio[0])
    page = AppTest.from_function(compare_page, default_timeout=60)
    page.session_state["typed-checkpoints"] = trio[1:]
    page.session_state["compare"] = trio
    page.session_state["checkpoint"] = trio[0]
    page.session_state["last-checkpoint"] = trio[0]
    shared = state.engine()
    shared.loader._load = slowly
    return page


def watch(page, over):
    """Draw the page again and again, as it does by itself in a browser; gives every word seen."""
    seen, end = [], time.monotonic() + 90
    while not over(page):
        assert time.monotonic() < end
        page.run()
        assert not page.exception
        assert not page.error
        seen.append(text_of(page))
        time.sleep(0.1)
    return "\n".join(seen)


def costs_of(page):
    return [frame.value for frame in page.dataframe if "ms an image" in frame.value.columns]


def all_timed(page):
    return any(len(costs) == 3 and costs["ms an image"].notna().all() for costs in costs_of(page))


def test_three_are_ranked_and_timed_where_one_fits(page, trio):
    seen = watch(page, all_timed)
    assert len(table(page, "Spearman")) == 6
    assert "cannot be" not in seen
    assert "not available" not in seen
    assert "was released" not in seen
    shared, view = page.session_state["seen"]
    assert [len(shared.loader.known(name).missing(view.items)) for name in trio] == [0, 0, 0]
    assert watch(page, lambda page: shared.loader.encoder(trio[0])) is not None  # the sidebar's comes back
    assert page.session_state["claimed"] == ()


def test_a_model_that_waits_for_memory_says_so_and_comes_once_it_is_free(page, trio):
    shared, there = state.engine(), Workspace()
    shared.loader.use(trio[0], there)
    shared.loader.start(trio[0])
    shared.loader.wait(trio[0])
    seen = watch(page, lambda page: "waits for memory" in text_of(page) and costs_of(page))
    assert "small-10** waits for memory: colour-clip0 is in use." in seen.replace("\\", "")
    del there
    gc.collect()
    watch(page, all_timed)


def test_a_comparison_that_is_left_leaves_no_checkpoint_unavailable(page, trio):
    shared, there = state.engine(), Workspace()
    shared.loader.use(trio[0], there)
    shared.loader.start(trio[0])
    shared.loader.wait(trio[0])
    watch(page, lambda _: shared.loader.status(trio[1]).state == "waiting")
    page.multiselect(key="compare").set_value([trio[0]]).run()
    assert shared.loader.wait(trio[1]).state == "idle"
