"""Domain objects become page elements: ``show_grid``, ``show_lint``, ``show_rejected`` and the like.

Names and captions come from outside: they reach Markdown only through ``plain``.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

from clipdemo.limits import MEGABYTE, Limits
from clipdemo.models import catalogue
from clipdemo.models.cache import CachedEncoder
from clipdemo.models.loader import Status
from clipdemo.scoring.prompts import Query, weaknesses
from clipdemo.types import CaptionTokens, Checkpoint, Hit, ImageItem, Rejected

Thing = TypeVar("Thing")

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
# What is not seen but turns, joins or hides what is; emoji need the joiners.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_SIGNS = re.compile(
    r"(?<=[!-/:-@\[-`{-~])(?=[!-/:-@\[-`{-~])|(?<=\()|(?<=@)|(?<=:)(?=streamlit)|(?<=www)(?=\.)",
    re.IGNORECASE,
)


def plain(text: str, most: int = 120) -> str:
    """Text from outside, shortened and with every Markdown character escaped, so that it shows as typed."""
    short = _UNSEEN.sub("\ufffd", " ".join(text.split()))
    if len(short) > most:
        short = short[: most - 1] + "…"
    # A word joiner keeps two signs from being set as one ("--" as a dash, "..." as an ellipsis), and
    # "www." or an e-mail address from becoming a link, and ":streamlit:" from becoming a logo.
    apart = _SIGNS.sub("\u2060", short)
    return _PUNCTUATION.sub(r"\\\1", apart)


def show_grid(
    hits: Sequence[Hit],
    items: Sequence[ImageItem],
    *,
    key: str,
    on_open: Callable[[Hit], None],
    tile_width: int = 150,
) -> None:
    """Tiles, best first: thumbnail, rank, name, cosine, percentile, and a button for the score card."""
    with st.grid("auto", min_column_width=tile_width, gap="small", key=f"grid-{key}") as grid:
        for hit in hits:
            item = items[hit.index]
            with grid.cell():
                st.markdown(_picture(item))
                st.caption(
                    f"**{hit.rank}**&ensp;{plain(item.name, 28)}  \n"
                    f"percentile **{hit.whole_percentile}**  \ncosine {hit.cosine:.3f}"
                )
                st.button(
                    "Score card",
                    key=f"card-{key}-{item.sha256[:16]}",
                    on_click=on_open,
                    args=(hit,),
                    type="tertiary",
                )


def _picture(item: ImageItem) -> str:
    """The thumbnail as Markdown that brings its own bytes.

    Unlike ``st.image`` the browser needs neither another script nor another request to draw it. Its rank is not part of
    it, so that Streamlit need not send it again when only the order changes.
    """
    return f"![{plain(item.name, 100)}](data:image/jpeg;base64,{b64encode(item.thumbnail).decode()})"


def show_lint(
    captions: Sequence[str],
    notes: Sequence[str],
    tokens: Callable[[str], CaptionTokens] | None,
    checkpoint: str,
) -> None:
    """What the captions box holds: token counts, cut-off tails, weak spots, dropped lines."""
    lines = []
    for caption in captions:
        read = Query.parse(caption)
        counts = [tokens(term.text) for term in read.terms] if tokens else []
        about = []
        if counts:
            worst = max(counts, key=lambda count: count.used)
            about.append(f"{worst.used}/{worst.limit} tokens")
            if worst.cut:
                kept = f"…{plain(worst.kept[-30:])}"
                about.append(f":orange[cut off after] {kept} ~~{plain(worst.cut.strip(), 200)}~~")
        if read.weighted:
            terms = (
                f"{'+' if t.weight > 0 else '−'} {abs(t.weight):g} × {plain(t.text, 40)}" for t in read.terms
            )
            about.append("read as " + " ".join(terms))
        if counts and len(captions) > 1:
            about.insert(0, f"\u2068{plain(caption, 28)}\u2069")  # isolated: it may run right to left
        about += [f":orange[reads badly] {words}" for words in weaknesses(caption)]
        lines.append(" · ".join(about))
    if len(captions) == 1:
        lines.append("One caption can be ranked; a share needs at least two.")
    text = "  \n".join(
        [*(line for line in lines if line), *(f":orange[{plain(note, 300)}]" for note in notes)]
    )
    if text:
        st.caption(text)
    if not tokens and captions:
        st.caption(f"Tokens are counted once {plain(catalogue.title(checkpoint))} is ready.")


def show_rejected(rejected: Sequence[Rejected]) -> None:
    """What could not be used, each with its reason."""
    if not rejected:
        return
    with st.expander(
        f"{len(rejected)} could not be used", expanded=len(rejected) <= 8, icon=":material/block:"
    ):
        for thing in rejected[:100]:
            st.caption(f"**{plain(thing.name, 60)}** — {thing.verdict}: {plain(thing.reason, 300)}")
        if len(rejected) > 100:
            st.caption(f"… and {len(rejected) - 100} more")


def show_url_verdicts(urls: dict[str, Rejected | ImageItem]) -> None:
    """Each pasted URL with its verdict: fetched, or why not."""
    for url, found in urls.items():
        if isinstance(found, ImageItem):
            st.caption(f":green[:material/check:] {plain(url, 60)} — fetched")
        else:
            st.caption(
                f":orange[:material/block:] {plain(url, 60)} — **{found.verdict}**: {plain(found.reason, 300)}"
            )


def show_limits(limits: Limits) -> None:
    """The limits of this host, in one line."""
    st.caption(
        f"At most {limits.images} images of {limits.file_bytes / MEGABYTE:g} MB each, "
        f"{limits.captions} captions"
        + (f", {limits.urls} URLs of {limits.url_seconds:g} s each." if limits.urls_allowed else ".")
        + " A zip may have 200 MB. Images stay in this session and are never saved."
    )


def show_status(name: str, status: Status) -> None:
    """A checkpoint that is on its way: what it does, how far it is."""
    title = catalogue.title(name)
    if status.state == "downloading" and status.progress:
        done, total = status.progress.done, max(status.progress.total, 1)
        text = f"Downloading {title}: {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB"
        st.progress(min(done / total, 1.0), plain(text))
    elif status.state == "loading":
        st.caption(f":material/hourglass_top: Loading {plain(title)} …")
    elif status.state == "waiting":
        st.caption(f":material/hourglass_top: {plain(title)} waits for memory: {plain(status.reason, 300)}.")


def show_waiting(name: str) -> None:
    """What a page shows while its checkpoint is on its way."""
    st.info(
        f"{plain(catalogue.title(name))} is on its way; its progress is beside the picker in the sidebar. "
        "Meanwhile you can choose the embedded model there.",
        icon=":material/hourglass_top:",
    )
    st.skeleton(height=240)


def page_of(things: Sequence[Thing], size: int, name: str) -> Sequence[Thing]:
    """The page of ``things`` that the visitor is on, with the page numbers where there are several."""
    pages = max(1, -(-len(things) // size))
    page = st.pagination(pages, key=f"page-{name}-{size}-{pages}") if pages > 1 else 1
    return things[(page - 1) * size : page * size]


def describe(checkpoint: Checkpoint) -> str:
    """One line of Markdown: the checkpoint's name, revision and size."""
    revision = checkpoint.revision[:12]
    return (
        f"**{plain(catalogue.title(checkpoint.id))}** · revision {plain(revision)} · "
        f"{checkpoint.parameters / 1e6:.0f} M parameters · {checkpoint.dim} dimensions · "
        f"{checkpoint.context_length} tokens"
    )


def runs_on(encoder: CachedEncoder) -> str:
    """Where a checkpoint runs, and in which precision."""
    device = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU (Apple)"}.get(encoder.device, encoder.device)
    return f"on the {device}, {encoder.dtype}"


def metric_row(values: dict[str, tuple[str, str]]) -> None:
    """Figures side by side, each with its meaning one hover away: name -> (value, help)."""
    grid: Any = st.grid("auto", min_column_width=110, gap="small")
    for name, (value, meaning) in values.items():
        grid.metric(name, value, help=meaning)
