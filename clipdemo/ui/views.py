"""Domain objects as page elements: ``show_grid``, ``show_lint``, ``show_rejected`` and others.

Names and captions are untrusted: they reach Markdown only through ``plain``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st

from clipdemo.limits import Limits, format_bytes
from clipdemo.models import catalogue
from clipdemo.models.cache import CachedEncoder
from clipdemo.models.loader import Status
from clipdemo.output.html import data_uri
from clipdemo.scoring.prompts import Query, weaknesses
from clipdemo.types import CaptionTokens, Checkpoint, Hit, ImageItem, Rejected

Item = TypeVar("Item")

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
# Invisible characters that reorder, join or hide text; emoji need the joiners, which are not listed.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_SIGNS = re.compile(
    r"(?<=[!-/:-@\[-`{-~])(?=[!-/:-@\[-`{-~])|(?<=\()|(?<=@)|(?<=:)(?=streamlit)|(?<=www)(?=\.)",
    re.IGNORECASE,
)


def plain(text: str, most: int = 120) -> str:
    """Untrusted text, shortened and with every Markdown character escaped, so that it shows as typed."""
    short = _UNSEEN.sub("\ufffd", " ".join(text.split()))
    if len(short) > most:
        short = short[: most - 1] + "…"
    # A word joiner prevents typographic replacement ("--", "..."), links ("www.", e-mail addresses) and
    # Streamlit's ":streamlit:" logo.
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
    """The thumbnail as Markdown with a data URI.

    Unlike ``st.image`` it needs neither another script nor another request. It leaves out the rank, so that
    Streamlit does not send it again when only the order changes.
    """
    return f"![{plain(item.name, 100)}]({data_uri(item.thumbnail)})"


def show_lint(
    captions: Sequence[str],
    notes: Sequence[str],
    tokens: Callable[[str], CaptionTokens] | None,
    checkpoint: str,
) -> None:
    """Notes on the captions: token counts, truncated tails, weaknesses of CLIP models, dropped lines."""
    lines = []
    for caption in captions:
        query = Query.parse(caption)
        counts = [tokens(term.text) for term in query.terms] if tokens else []
        notes_on_caption = []
        if counts:
            worst = max(counts, key=lambda count: count.used)
            notes_on_caption.append(f"{worst.used}/{worst.limit} tokens")
            if worst.cut:
                kept = f"…{plain(worst.kept[-30:])}"
                notes_on_caption.append(f":orange[cut off after] {kept} ~~{plain(worst.cut.strip(), 200)}~~")
        if query.weighted:
            terms = (
                f"{'+' if t.weight > 0 else '−'} {abs(t.weight):g} × {plain(t.text, 40)}" for t in query.terms
            )
            notes_on_caption.append("read as " + " ".join(terms))
        if counts and len(captions) > 1:
            # Isolated: it may run right to left.
            notes_on_caption.insert(0, f"\u2068{plain(caption, 28)}\u2069")
        notes_on_caption += [f":orange[handled poorly:] {weakness}" for weakness in weaknesses(caption)]
        lines.append(" · ".join(notes_on_caption))
    if len(captions) == 1:
        lines.append("One caption can be ranked; a share requires at least two.")
    text = "  \n".join(
        [*(line for line in lines if line), *(f":orange[{plain(note, 300)}]" for note in notes)]
    )
    if text:
        st.caption(text)
    if not tokens and captions:
        st.caption(f"Tokens are counted once {plain(catalogue.title(checkpoint))} is loaded.")


def show_rejected(rejected: Sequence[Rejected]) -> None:
    """Files that could not be used, each with its reason."""
    if not rejected:
        return
    with st.expander(
        f"{len(rejected)} could not be used", expanded=len(rejected) <= 8, icon=":material/block:"
    ):
        for item in rejected[:100]:
            st.caption(f"**{plain(item.name, 60)}** — {item.verdict}: {plain(item.reason, 300)}")
        if len(rejected) > 100:
            st.caption(f"… and {len(rejected) - 100} more")


def show_url_verdicts(urls: dict[str, Rejected | ImageItem]) -> None:
    """Each pasted URL: fetched, or why not."""
    for url, found in urls.items():
        if isinstance(found, ImageItem):
            st.caption(f":green[:material/check:] {plain(url, 60)} — fetched")
        else:
            st.caption(
                f":orange[:material/block:] {plain(url, 60)} — **{found.verdict}**: "
                f"{plain(found.reason, 300)}"
            )


def show_limits(limits: Limits) -> None:
    """The limits of this host, in one line."""
    st.caption(
        f"At most {limits.images} images of {format_bytes(limits.file_bytes)} each, "
        f"{limits.captions} captions"
        + (f", {limits.urls} URLs of {limits.url_seconds:g} s each." if limits.urls_allowed else ".")
        + f" A zip may have {st.get_option('server.maxUploadSize')} MB."
        + " Images stay in this session and are never saved."
    )


def show_status(name: str, status: Status) -> None:
    """The state of a checkpoint that is downloading, loading or waiting for memory."""
    title = catalogue.title(name)
    if status.state == "downloading" and status.progress:
        done, total = status.progress.done, max(status.progress.total, 1)
        text = f"Downloading {title}: {format_bytes(done)} of {format_bytes(total)}"
        st.progress(min(done / total, 1.0), plain(text))
    elif status.state == "loading":
        st.caption(f":material/hourglass_top: Loading {plain(title)} …")
    elif status.state == "waiting":
        st.caption(f":material/hourglass_top: {plain(title)} waits for memory: {plain(status.reason, 300)}.")


def show_waiting(name: str) -> None:
    """A message and a skeleton until the chosen checkpoint is loaded."""
    st.info(
        f"{plain(catalogue.title(name))} is loading; the sidebar shows its progress below the picker. "
        "Meanwhile you can choose the embedded model there.",
        icon=":material/hourglass_top:",
    )
    st.skeleton(height=240)


@dataclass(frozen=True)
class Download:
    """A file to take away.

    Attributes:
        make: returns its bytes; called only when the visitor asks for the file.
        icon: name of a Material symbol.
    """

    label: str
    file_name: str
    mime: str
    make: Callable[[], bytes]
    icon: str


def show_downloads(downloads: Sequence[Download]) -> None:
    """A row of download buttons."""
    with st.container(horizontal=True):
        for each in downloads:
            show_download(each)


def show_download(file: Download) -> None:
    """One download button."""
    icon = f":material/{file.icon}:"
    st.download_button(file.label, file.make, file.file_name, file.mime, on_click="ignore", icon=icon)


def paginate(items: Sequence[Item], size: int, name: str) -> Sequence[Item]:
    """The items of the page that the visitor is on; shows page numbers where there are several."""
    pages = max(1, -(-len(items) // size))
    page = st.pagination(pages, key=f"page-{name}-{size}-{pages}") if pages > 1 else 1
    return items[(page - 1) * size : page * size]


def describe(checkpoint: Checkpoint) -> str:
    """Name, revision and size of a checkpoint, as one line of Markdown."""
    revision = checkpoint.revision[:12]
    return (
        f"**{plain(catalogue.title(checkpoint.id))}** · revision {plain(revision)} · "
        f"{checkpoint.parameters / 1e6:.0f} M parameters · {checkpoint.dim} dimensions · "
        f"{checkpoint.context_length} tokens"
    )


def runs_on(encoder: CachedEncoder) -> str:
    """Device and precision of a checkpoint."""
    device = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU (Apple)"}.get(encoder.device, encoder.device)
    return f"on the {device}, {encoder.dtype}"


def metric_row(values: dict[str, tuple[str, str]]) -> None:
    """Figures side by side, each explained on hover: name -> (value, help)."""
    grid: Any = st.grid("auto", min_column_width=110, gap="small")
    for name, (value, meaning) in values.items():
        grid.metric(name, value, help=meaning)
