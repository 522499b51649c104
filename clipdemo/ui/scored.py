"""The workspace scored under the chosen checkpoint, or a message that says what is missing."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from clipdemo.models.cache import CachedEncoder
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.prompts import Templates
from clipdemo.scoring.score import Background, background, score_matrix
from clipdemo.types import ScoreMatrix
from clipdemo.ui import views
from clipdemo.ui.state import View


@dataclass(frozen=True, eq=False)
class Scored:
    """The workspace under one checkpoint.

    Attributes:
        matrix: the images encoded so far, against every caption.
        scale: cosines of unrelated pairs, for percentiles.
    """

    encoder: CachedEncoder
    matrix: ScoreMatrix
    scale: Background
    templates: Templates


def score(view: View) -> Scored | None:
    """Score what is encoded; returns None, with a message on the page, where nothing is."""
    if view.encoder is None:
        views.show_waiting(view.checkpoint)
        return None
    if not view.items:
        st.info(
            "No images yet. Choose a sample gallery in the sidebar, or add your own.", icon=":material/image:"
        )
        return None
    if not view.ready_items():
        st.skeleton(height=240)
        return None
    # Fixed slots: elements that appear and disappear must not shift those below.
    spinner, progress = st.empty(), st.empty()
    with (
        spinner,
        st.spinner("Scoring the captions; the first time, the model is loaded as well …", show_time=True),
    ):
        scale = background(view.encoder, sample_items(), NEUTRAL_CAPTIONS, templates=view.templates)
        # Listed after the background, which encodes the samples: if nothing is left to encode, no later run
        # draws them.
        items = view.ready_items()
        matrix = score_matrix(view.encoder, items, view.captions, templates=view.templates)
    if len(items) < len(view.items):
        progress.caption(
            f":material/hourglass_top: Showing the {len(items)} of {len(view.items)} images encoded so far."
        )
    return Scored(view.encoder, matrix, scale, view.templates)
