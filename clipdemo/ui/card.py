"""The score card: what a score means, compared with what, and under which checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from clipdemo.audit.judge import POSSIBLE_FROM, STRONG_FROM, WEAK_BELOW
from clipdemo.models import catalogue
from clipdemo.output import charts
from clipdemo.scoring.score import Background
from clipdemo.types import Checkpoint, Hit, ImageItem, ScoreMatrix
from clipdemo.ui import views
from clipdemo.ui.state import View
from clipdemo.ui.workspace import workspace


@dataclass(frozen=True)
class Card:
    """The pair to explain: an image with a caption, or with the query image when ``caption`` is None.

    Attributes:
        sha256: of the image.
        query: SHA-256 of the query image, where the page does not show it already.
    """

    sha256: str
    caption: str | None
    hit: Hit
    query: str | None = None


def show(card: Card, view: View, matrix: ScoreMatrix, scale: Background) -> None:
    """Open the dialog; does nothing when the pair is no longer in the workspace."""
    row = next((n for n, item in enumerate(matrix.images) if item.sha256 == card.sha256), None)
    if row is None or (card.caption is not None and card.caption not in matrix.captions):
        close()
        return

    # Every run draws it until it is dismissed, so that background work does not close it.
    @st.dialog("Score card", width="large", on_dismiss=close)
    def dialog() -> None:
        item = matrix.images[row]
        left, right = st.columns([2, 3], gap="medium")
        left.image(item.thumbnail, alt=item.name[:100], width="stretch")
        left.caption(f"\u2068{views.plain(item.name, 80)}\u2069 · {item.width} × {item.height}")
        for query in (other for other in matrix.images if other.sha256 == card.query):
            left.image(query.thumbnail, alt=query.name[:100], width=110)
            left.caption(f"The query image: {views.plain(query.name, 80)}")
        with right:
            if card.caption is None:
                _image_pair(card.hit, matrix.checkpoint, scale)
            else:
                column = matrix.captions.index(card.caption)
                _caption_pair(row, column, card.hit, matrix, scale)
        with left:
            _actions(item)
        right.caption(
            f"Under {views.describe(matrix.checkpoint)}"
            + (f" · {views.runs_on(view.encoder)}" if view.encoder else "")
            + ". Templates: "
            + views.plain(" | ".join(view.templates.patterns), 300)
        )

    dialog()


def close() -> None:
    """Close the dialog."""
    st.session_state.pop("card", None)


def _caption_pair(row: int, column: int, hit: Hit, matrix: ScoreMatrix, scale: Background) -> None:
    checkpoint = matrix.checkpoint
    of_images = int(matrix.ranks(of="images")[row, column])
    of_captions = int(matrix.ranks(of="captions")[row, column])
    st.markdown(f"**“{views.plain(matrix.captions[column], 300)}”**")
    st.markdown(sentence(hit, of_images, matrix, of_captions))
    figures = {
        "Cosine": (
            f"{hit.cosine:.3f}",
            "Cosine of the angle between the two embeddings: 1 is the same direction, 0 unrelated. "
            "It is not a probability, and not comparable between checkpoints.",
        ),
        "Percentile": (
            f"{hit.whole_percentile}",
            f"Share of {scale.captions.size} unrelated pairs (sample photographs × everyday captions), in "
            "percent, that score lower under the same checkpoint and template.",
        ),
        "Logit": (f"{matrix.logits()[row, column]:.2f}", _logit_meaning(checkpoint)),
        **_share(row, column, matrix),
        "Image rank": (
            f"{of_images} of {len(matrix.images)}",
            "Rank of this image among all images for this caption.",
        ),
        "Caption rank": (
            f"{of_captions} of {len(matrix.captions)}",
            "Rank of this caption among all captions for this image.",
        ),
    }
    views.metric_row(figures)
    st.plotly_chart(
        charts.background_histogram(hit.cosine, scale.captions),
        key="card-histogram",
        config={"displayModeBar": False},
        alt=f"Cosines of {scale.captions.size} unrelated pairs; this pair has {hit.cosine:.3f}, "
        f"percentile {hit.whole_percentile}",
    )


def sentence(hit: Hit, of_images: int, matrix: ScoreMatrix, of_captions: int) -> str:
    """The scores of a pair in one plain sentence."""
    ranks = f"number {of_images} of {len(matrix.images)} images for this caption"
    if len(matrix.captions) > 1:
        ranks += f", and the caption is number {of_captions} of {len(matrix.captions)} for this image"
    title = views.plain(catalogue.title(matrix.checkpoint.id))
    return (
        f"Under {title} this is **{_strength(hit.percentile)}**: it scores higher than "
        f"{hit.whole_percentile} in 100 unrelated pairs. The image is {ranks}."
    )


def _strength(percentile: float) -> str:
    if percentile >= STRONG_FROM:
        return "a strong match"
    if percentile >= POSSIBLE_FROM:
        return "a possible match"
    return "a weak match" if percentile >= WEAK_BELOW else "no better than a random pair"


def _share(row: int, column: int, matrix: ScoreMatrix) -> dict[str, tuple[str, str]]:
    probability = float(matrix.probabilities()[row, column])
    if matrix.checkpoint.logit_bias is not None:
        meaning = (
            "Sigmoid of the logit: this pair alone, as the checkpoint was trained; "
            "other captions do not matter."
        )
        return {"Sigmoid": (f"{probability:.1%}", meaning)}
    if len(matrix.captions) < 2:
        return {"Share": ("–", "A share requires at least two captions.")}
    meaning = (
        f"Softmax over the {len(matrix.captions)} captions given, for this image; "
        "it changes with the captions."
    )
    return {"Share": (f"{probability:.1%}", meaning)}


def _logit_meaning(checkpoint: Checkpoint) -> str:
    bias = "" if checkpoint.logit_bias is None else f" plus its bias {checkpoint.logit_bias:.2f}"
    scale = f"{checkpoint.logit_scale:.1f}{bias}"
    return f"Cosine times the checkpoint's logit scale {scale}: the input of softmax or sigmoid."


def _image_pair(hit: Hit, checkpoint: Checkpoint, scale: Background) -> None:
    title = views.plain(catalogue.title(checkpoint.id))
    st.markdown(
        f"Under {title} this image is more similar to the query image than {hit.whole_percentile} in 100 "
        "pairs of unrelated sample photographs are to each other."
    )
    views.metric_row(
        {
            "Cosine": (
                f"{hit.cosine:.3f}",
                "Between two images; image-image cosines are higher than image-caption ones.",
            ),
            "Percentile": (
                f"{hit.whole_percentile}",
                f"Against {scale.images.size} ordered pairs of sample photographs.",
            ),
            "Rank": (f"{hit.rank}", "Rank among the other images of the workspace."),
        }
    )
    st.plotly_chart(
        charts.background_histogram(hit.cosine, scale.images),
        key="card-histogram",
        config={"displayModeBar": False},
        alt=f"Cosines of unrelated image pairs; this pair has {hit.cosine:.3f}",
    )


def _actions(item: ImageItem) -> None:
    """Buttons that lead on to the image."""
    with st.container(horizontal=True):
        for label, direction in (
            ("Its captions", "Captions for an image"),
            ("Images like it", "Images like an image"),
        ):
            if st.button(label, key=f"go-{direction}"):
                st.session_state["next"] = (item.sha256, direction)
                close()
                st.rerun()
        if item.source != "sample" and st.button(
            "Remove", key="remove", help="Take this image out of the workspace"
        ):
            workspace().remove(item.sha256)
            close()
            st.rerun()
