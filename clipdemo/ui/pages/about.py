"""The About page: what the scores mean, the checkpoints, and the sample photographs with their licences."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from clipdemo import __version__
from clipdemo.limits import format_bytes
from clipdemo.models.catalogue import CATALOGUE, title
from clipdemo.models.loader import Loader
from clipdemo.samples import samples
from clipdemo.ui import views
from clipdemo.ui.state import View

MEANING = """
**What you see.** A dual encoder maps every image and every caption to an embedding, a vector in a shared
space. The *cosine* of two embeddings measures how well they match: the grid is sorted by it.

**A cosine is not a probability.** Under CLIP even good matches have cosines of about 0.2 to 0.35, and other
checkpoints have other ranges. That is why every score comes with a *percentile*: the percent of unrelated
pairs (our sample photographs with everyday captions) that score lower under the same checkpoint.

**A share** is CLIP's softmax among the captions you gave, for one image. It says which of them matches best,
not whether any of them matches. SigLIP checkpoints score each pair independently with a *sigmoid*.

**What CLIP models handle poorly.** Negation (“no dog”), counts (“three dogs”) and positions (“left of”).
The captions box points these out.

**Your images** are kept in the memory of this session only, reduced to the size a model needs; they are never
saved and not part of a shared link.
"""


def show(view: View, loader: Loader) -> None:
    """The whole page."""
    st.title("About clipdemo", anchor=False)
    st.markdown(MEANING)
    st.subheader("Checkpoints", anchor=False)
    st.markdown(
        "\n".join(f"- **{entry.title}** (`{entry.id}`). {entry.about}" for entry in CATALOGUE.values())
    )
    _catalogue()
    if view.encoder:
        st.caption(f"In use: {views.describe(view.encoder.checkpoint)} · {views.runs_on(view.encoder)}")
    st.caption(_memory(loader))
    st.subheader("Sample photographs", anchor=False)
    rows = [
        {"photograph": s.title, "by": s.author, "licence": s.licence, "source": s.source} for s in samples()
    ]
    links = {"source": st.column_config.LinkColumn("source", display_text="open")}
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=links)
    st.caption(f"clipdemo {__version__}, MIT licence.")


def _memory(loader: Loader) -> str:
    """For the host: memory used, and by which checkpoints."""
    room = loader.governor.memory.room()
    held = [
        f"{views.plain(title(name))} ({format_bytes(nbytes)})"
        for name, nbytes in loader.governor.loaded_bytes.items()
    ]
    loaded = ", ".join(held) or "the embedded model alone"
    used = f"{format_bytes(room.used)} of {format_bytes(room.limit)}"
    return f"Memory of this server: {used} used; loaded: {loaded}."


def _catalogue() -> None:
    """Published facts of each checkpoint, with the source of each figure."""
    rows = [
        {
            "checkpoint": entry.title,
            "figure": f"{entry.figure.percent:g} %" if entry.figure else "none published",
            "of": entry.figure.measure if entry.figure else "",
            "source": entry.figure.url if entry.figure else None,
            "download": format_bytes(entry.download_bytes) if entry.download_bytes else "none",
            "memory": format_bytes(entry.memory_bytes),
            "parameters": f"{entry.parameters / 1e6:,.0f} M",
            "pixels": entry.image_size,
            "tokens": entry.context_length,
            "dimensions": entry.dim,
            "captions": entry.languages or "not stated",
            "licence": entry.licence or "not stated",
        }
        for entry in CATALOGUE.values()
    ]
    links = {"source": st.column_config.LinkColumn("source", display_text="open")}
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=links, key="catalogue")
    st.caption(
        "Figures are published ones, not measured here; different measures cannot be compared. Memory is "
        "the size of the weights in float32."
    )
