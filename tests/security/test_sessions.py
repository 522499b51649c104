"""Visitors leave nothing behind, and none takes the server for itself: the short form of ``soak.py``."""

from __future__ import annotations

import sys

import pytest
import soak
from PIL import Image

from clipdemo.limits import Limits
from clipdemo.types import ImageItem, Rejected
from clipdemo.ui import workspace
from clipdemo.ui.workspace import Workspace


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_visitors_who_vanish_leave_nothing_open_and_see_only_their_own():
    figures, troubles = soak.soak(visitors=20, each=20, at_once=20)
    assert not troubles
    before, after = figures
    assert after.descriptors <= before.descriptors + soak.SLACK["descriptors"]
    assert after.threads <= before.threads + 20  # those of the process itself; each visitor has one or more
    assert after.temporary == 0


def test_a_figure_that_rises_would_be_noticed():
    steady = [
        soak.Left(700, 9, 14, 0),
        soak.Left(760, 10, 14, 0),
        soak.Left(750, 11, 15, 0),
        soak.Left(770, 9, 14, 0),
    ]
    assert not soak.rises(steady)
    rising = [*steady[:3], soak.Left(1_000, 9, 60, 3)]
    assert [rise.split()[0] for rise in soak.rises(rising)] == ["megabytes", "descriptors", "temporary"]


def test_a_session_keeps_pixels_up_to_its_limit(monkeypatch):
    picture = Image.new("RGB", (100, 100))
    monkeypatch.setattr(workspace, "MAX_KEPT_BYTES", 70_000)
    mine = Workspace()
    for number in range(3):
        mine.add(ImageItem(f"{number}.png", str(number), picture, b"", 100, 100, "upload"), (), Limits())
    assert list(mine.items) == ["0", "1"]
    (refused,) = mine.rejected
    assert isinstance(refused, Rejected)
    assert "0.1 MB of pixels" in refused.reason
