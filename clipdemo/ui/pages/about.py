"""The About page: what the numbers mean, which checkpoint gives them, whose photographs are shown."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from clipdemo import __version__, checkpoints, gallery
from clipdemo.loading import Loader
from clipdemo.ui import views
from clipdemo.ui.state import View

MEANING = """
**What you see.** A dual encoder turns every image and every caption into an embedding, a direction in one
space. The *cosine* of two embeddings says how well they fit: the grid is ordered by it.

**A cosine is not a probability.** Under CLIP even good matches have cosines of about 0.2 to 0.35, and other
checkpoints have other ranges. That is why every score comes with a *percentile*: how many in a hundred
unrelated pairs (our sample photographs with everyday captions) score lower under the same checkpoint.

**A share** is CLIP's softmax among the captions you gave, for one image. It says which of them fits best,
not whether any fits. SigLIP checkpoints give each pair a *sigmoid* of its own instead.

**What such models read badly.** Negation (“no dog”), counts (“three dogs”) and where things are (“left of”).
The captions box points these out.

**Your images** stay in the memory of this session, shrunk to what a model needs; they are not saved and not
part of a shared link.
"""


def show(view: View, loader: Loader) -> None:
    """The whole page."""
    st.title("About clipdemo", anchor=False)
    st.markdown(MEANING)
    st.subheader("Checkpoints", anchor=False)
    for entry in checkpoints.CATALOGUE.values():
        st.markdown(f"**{entry.title}** (`{entry.id}`). {entry.about}")
    if view.encoder:
        st.caption(f"Now: {views.describe(view.encoder.checkpoint)} · {views.runs_on(view.encoder)}")
    st.caption(_memory(loader))
    st.subheader("Sample photographs", anchor=False)
    rows = [
        {"photograph": s.title, "by": s.author, "licence": s.licence, "source": s.source}
        for s in gallery.samples()
    ]
    links = {"source": st.column_config.LinkColumn("source", display_text="open")}
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=links)
    st.caption(f"clipdemo {__version__}, MIT licence.")


def _memory(loader: Loader) -> str:
    """For the host: what is taken of the memory, and by which checkpoints."""
    room = loader.governor.memory.room()
    held = [
        f"{views.plain(checkpoints.title(name))} ({nbytes / 1e9:.1f} GB)"
        for name, nbytes in loader.governor.held.items()
    ]
    loaded = ", ".join(held) or "the embedded model alone"
    return (
        f"Memory of this server: {room.used / 1e9:.1f} of {room.limit / 1e9:.1f} GB used; loaded: {loaded}."
    )
