"""The score card: what one number means, against what, and from which checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from clipdemo.models import catalogue
from clipdemo.output import charts
from clipdemo.scoring.score import Background
from clipdemo.types import Checkpoint, Hit, ImageItem, ScoreMatrix
from clipdemo.ui import views
from clipdemo.ui.state import View, workspace


@dataclass(frozen=True)
class Card:
    """Which pair to explain: an image with a caption, or with the query image when ``caption`` is None.

    Attributes:
        sha256: the image.
        caption: the caption, or None for a pair of images.
        hit: its place and numbers.
        query: SHA-256 of the query image, where the page does not show it already.
    """

    sha256: str
    caption: str | None
    hit: Hit
    query: str | None = None


def show(wanted: Card, view: View, matrix: ScoreMatrix, scale: Background) -> None:
    """Open the dialog; does nothing when the pair has left the workspace."""
    row = next((n for n, item in enumerate(matrix.images) if item.sha256 == wanted.sha256), None)
    if row is None or (wanted.caption is not None and wanted.caption not in matrix.captions):
        close()
        return

    # Until it is dismissed it is drawn by every run, so that work in the background does not close it.
    @st.dialog("Score card", width="large", on_dismiss=close)
    def dialog() -> None:
        item = matrix.images[row]
        left, right = st.columns([2, 3], gap="medium")
        left.image(item.thumbnail, alt=item.name[:100], width="stretch")
        left.caption(f"\u2068{views.plain(item.name, 80)}\u2069 · {item.width} × {item.height}")
        for query in (other for other in matrix.images if other.sha256 == wanted.query):
            left.image(query.thumbnail, alt=query.name[:100], width=110)
            left.caption(f"The query image: {views.plain(query.name, 80)}")
        with right:
            if wanted.caption is None:
                _image_pair(wanted.hit, matrix.checkpoint, scale)
            else:
                at = row, matrix.captions.index(wanted.caption)
                _caption_pair(at, wanted.hit, matrix, scale)
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
    """Forget which pair is explained."""
    st.session_state.pop("card", None)


def _caption_pair(at: tuple[int, int], hit: Hit, matrix: ScoreMatrix, scale: Background) -> None:
    row, column = at
    checkpoint = matrix.checkpoint
    of_images = int(matrix.ranks(of="images")[row, column])
    of_captions = int(matrix.ranks(of="captions")[row, column])
    st.markdown(f"**“{views.plain(matrix.captions[column], 300)}”**")
    st.markdown(sentence(hit, of_images, matrix, of_captions))
    figures = {
        "Cosine": (
            f"{hit.cosine:.3f}",
            "Angle between the two embeddings: 1 is the same direction, 0 unrelated. "
            "It is not a probability, and not comparable between checkpoints.",
        ),
        "Percentile": (
            f"{hit.whole_percentile}",
            f"How many in a hundred of {scale.captions.size} unrelated pairs "
            "(sample photographs × everyday captions) score lower under the same checkpoint and template.",
        ),
        "Logit": (f"{matrix.logits()[row, column]:.2f}", _logit_meaning(checkpoint)),
        **_share(row, column, matrix),
        "Image rank": (
            f"{of_images} of {len(matrix.images)}",
            "Place of this image among all images for this caption.",
        ),
        "Caption rank": (
            f"{of_captions} of {len(matrix.captions)}",
            "Place of this caption among all captions for this image.",
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
    """The numbers of a pair in one plain sentence."""
    strength = (
        "a strong match"
        if hit.percentile >= 99
        else "a possible match"
        if hit.percentile >= 95
        else "a weak match"
        if hit.percentile >= 80
        else "not told apart from unrelated pairs"
    )
    places = f"number {of_images} of {len(matrix.images)} images for this caption"
    if len(matrix.captions) > 1:
        places += f", and the caption is number {of_captions} of {len(matrix.captions)} for this image"
    title = views.plain(catalogue.title(matrix.checkpoint.id))
    return (
        f"Under {title} this is **{strength}**: it scores higher than {hit.whole_percentile} in 100 "
        "unrelated pairs. "
        f"The image is {places}."
    )


def _share(row: int, column: int, matrix: ScoreMatrix) -> dict[str, tuple[str, str]]:
    probability = float(matrix.probabilities()[row, column])
    if matrix.checkpoint.logit_bias is not None:
        meaning = (
            "Sigmoid of the logit: this pair by itself, as the checkpoint was trained; rivals do not matter."
        )
        return {"Sigmoid": (f"{probability:.1%}", meaning)}
    if len(matrix.captions) < 2:
        return {"Share": ("–", "A share needs at least two captions.")}
    meaning = f"Softmax over the {len(matrix.captions)} captions given, for this image; other captions, other shares."
    return {"Share": (f"{probability:.1%}", meaning)}


def _logit_meaning(checkpoint: Checkpoint) -> str:
    bias = "" if checkpoint.logit_bias is None else f" plus its bias {checkpoint.logit_bias:.2f}"
    return f"Cosine times the checkpoint's logit scale {checkpoint.logit_scale:.1f}{bias}: what softmax or sigmoid reads."


def _image_pair(hit: Hit, checkpoint: Checkpoint, scale: Background) -> None:
    title = views.plain(catalogue.title(checkpoint.id))
    st.markdown(
        f"Under {title} this image is closer to the query image than {hit.whole_percentile} in 100 pairs of "
        "unrelated sample photographs are to each other."
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
            "Rank": (f"{hit.rank}", "Place among the other images of the workspace."),
        }
    )
    st.plotly_chart(
        charts.background_histogram(hit.cosine, scale.images),
        key="card-histogram",
        config={"displayModeBar": False},
        alt=f"Cosines of unrelated image pairs; this pair has {hit.cosine:.3f}",
    )


def _actions(item: ImageItem) -> None:
    """From a pair on to its image."""
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
