"""What every page begins with: the workspace scored under the chosen checkpoint, or what is missing for it."""

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
        encoder: what encoded it.
        matrix: the images encoded so far against every caption.
        scale: unrelated pairs to read the cosines against.
        templates: what the captions were put into.
    """

    encoder: CachedEncoder
    matrix: ScoreMatrix
    scale: Background
    templates: Templates


def score(view: View) -> Scored | None:
    """Score what is ready; where nothing is, say why and what to do, and return None."""
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
    # Slots of their own: what comes and goes in them must not shift what is below.
    spinner, progress = st.empty(), st.empty()
    with (
        spinner,
        st.spinner("Scoring the captions; the first time, the model is loaded too …", show_time=True),
    ):
        scale = background(view.encoder, sample_items(), NEUTRAL_CAPTIONS, templates=view.templates)
        # After the background, which encodes the samples: with nothing left to encode, no other run shows them.
        items = view.ready_items()
        matrix = score_matrix(view.encoder, items, view.captions, templates=view.templates)
    if len(items) < len(view.items):
        progress.caption(
            f":material/hourglass_top: Showing the {len(items)} of {len(view.items)} images encoded so far."
        )
    return Scored(view.encoder, matrix, scale, view.templates)
