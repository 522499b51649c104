"""The Rank page: images for a caption, captions for an image, images like an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from clipdemo import similarity
from clipdemo.models import catalogue
from clipdemo.models.cache import CachedEncoder
from clipdemo.output import charts, files, pictures
from clipdemo.output.files import Ranked
from clipdemo.scoring.score import Background, rank
from clipdemo.types import Hit, ImageItem, ScoreMatrix
from clipdemo.ui import card, views
from clipdemo.ui.card import Card
from clipdemo.ui.scored import score
from clipdemo.ui.state import View
from clipdemo.ui.views import Download, show_downloads

FOR_CAPTION, FOR_IMAGE, LIKE_IMAGE = "Images for a caption", "Captions for an image", "Images like an image"
EVERY_CAPTION = "Every caption"
CAPTIONS_PER_PAGE = 5
FLOORS = [0, 50, 75, 90, 95, 99]

Section = tuple[str, Sequence[Hit]]


def show(view: View) -> None:
    """The whole page, from the images encoded so far."""
    st.title("Which image fits the words?", anchor=False)
    if "next" in st.session_state:  # a score card leads on to another direction
        st.session_state["query-image"], st.session_state["direction"] = st.session_state.pop("next")
    scored = score(view)
    if scored is None:
        return
    encoder, matrix, scale = scored.encoder, scored.matrix, scored.scale
    direction = st.segmented_control(
        "Direction",
        [FOR_CAPTION, FOR_IMAGE, LIKE_IMAGE],
        default=FOR_CAPTION,
        required=True,
        key="direction",
        bind="query-params",
        label_visibility="collapsed",
    )
    if direction != LIKE_IMAGE and not view.captions:
        st.info("No captions yet. Type them in the sidebar, one per line.", icon=":material/edit:")
    elif direction == FOR_IMAGE:
        _downloads(view, matrix, _captions_for_image(matrix, scale), [])
    else:
        rankings = _rankings(direction or FOR_CAPTION, encoder, matrix, scale)
        _downloads(view, matrix, rankings, _grids(direction or FOR_CAPTION, matrix, rankings))
    if "card" in st.session_state:
        card.show(st.session_state["card"], view, matrix, scale)


def _rankings(direction: str, encoder: CachedEncoder, matrix: ScoreMatrix, scale: Background) -> list[Ranked]:
    """All images for every query: one ranking per caption, or one for the chosen image."""
    names = [item.name for item in matrix.images]
    hashes = [item.sha256 for item in matrix.images]
    if direction == LIKE_IMAGE:
        picture, picker = st.columns([1, 6], vertical_alignment="bottom")
        with picker:
            query = _pick_image(matrix.images)
        picture.image(matrix.images[query].thumbnail, alt=names[query][:100], width="stretch")
        rows = encoder.encode_images(matrix.images)
        cosines = similarity.cosine(rows, rows[query : query + 1])[:, 0]
        others = [hit for hit in rank(cosines, scale.images) if hit.index != query]
        hits = [replace(hit, rank=place) for place, hit in enumerate(others, start=1)]
        return [Ranked(names[query], hits, names, hashes)]
    shares = matrix.probabilities() if has_shares(matrix) else None
    return [
        Ranked(
            caption,
            rank(matrix.cosine[:, column], scale.captions),
            names,
            hashes,
            None if shares is None else shares[:, column].tolist(),
        )
        for column, caption in enumerate(matrix.captions)
    ]


def has_shares(matrix: ScoreMatrix) -> bool:
    """Whether shares or sigmoids are informative: a softmax over one caption is always one."""
    return len(matrix.captions) > 1 or matrix.checkpoint.logit_bias is not None


def _grids(direction: str, matrix: ScoreMatrix, rankings: list[Ranked]) -> list[Section]:
    """One ranking with its pages, or the best images of every caption; returns what is shown."""
    chosen: int | None = 0
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if direction == FOR_CAPTION and len(rankings) > 1:
            chosen = _pick_caption(matrix.captions)
        one = chosen is not None
        k = st.selectbox(
            "Images a page" if one else "Images a caption", [5, 10, 20, 50], index=int(one), key=f"k-{one}"
        )
        # Not a slider: its widget makes a first visit fetch ten more files.
        floor = st.selectbox(
            "Hide below percentile",
            FLOORS,
            key="floor",
            format_func=lambda floor: str(floor or "show all"),
            help="The percentile of a score: percent of unrelated image-caption pairs that score lower "
            "under this checkpoint.",
        )
    shown: Sequence[Ranked] = rankings if chosen is None else rankings[chosen : chosen + 1]
    slot = st.container()
    if chosen is None:
        shown = views.paginate(shown, CAPTIONS_PER_PAGE, "captions")
    sections = []
    with slot:
        for ranking in shown:
            hits = [hit for hit in ranking.hits if hit.percentile >= floor]
            hidden = len(ranking.hits) - len(hits)
            note = f" :gray[:small[{hidden} of {len(ranking.hits)} hidden]]" if hidden else ""
            like = "Most like " if direction == LIKE_IMAGE else ""
            st.markdown(f"#### {like}{views.plain(ranking.query)}{note}")
            tiles = st.container()
            top = hits[:k] if chosen is None else views.paginate(hits, k, "images")
            with tiles:
                _tiles(direction, matrix, ranking, top)
            sections.append((ranking.query, top))
    return sections


def _pick_caption(captions: Sequence[str]) -> int | None:
    picked = st.selectbox("Caption", [EVERY_CAPTION, *captions], key="ranked-caption")
    return captions.index(picked) if picked in captions else None


def _tiles(direction: str, matrix: ScoreMatrix, ranking: Ranked, hits: Sequence[Hit]) -> None:
    if not hits:
        st.caption("Every image is below this percentile; lower it to see more.")
        return
    caption = ranking.query if direction == FOR_CAPTION else None

    def open_card(hit: Hit) -> None:
        st.session_state["card"] = Card(matrix.images[hit.index].sha256, caption, hit)

    column = "like" if caption is None else str(matrix.captions.index(caption))
    views.show_grid(hits, matrix.images, key=column, on_open=open_card)


def _captions_for_image(matrix: ScoreMatrix, scale: Background) -> list[Ranked]:
    """Bars of the captions for one image, best first; returns the rankings of all images."""
    shares = matrix.probabilities() if has_shares(matrix) else None
    rankings = [
        Ranked(
            item.name,
            rank(matrix.cosine[row], scale.captions),
            matrix.captions,
            shares=None if shares is None else shares[row].tolist(),
        )
        for row, item in enumerate(matrix.images)
    ]
    row = _pick_image(matrix.images)
    picture, bars = st.columns([1, 2], gap="large")
    item = matrix.images[row]
    picture.image(item.thumbnail, alt=item.name[:100], width="stretch")
    picture.caption(f"{views.plain(item.name, 60)} · {item.width} × {item.height}")
    with bars:
        hits = rankings[row].hits
        share = None if shares is None else shares[row]
        softmax = matrix.checkpoint.logit_bias is None
        unit = "percentile"
        if share is not None:
            unit = "share among these captions, %" if softmax else "sigmoid of each pair, %"
        figure = charts.caption_bars(hits, matrix.captions, share, unit)
        best = views.plain(matrix.captions[hits[0].index])
        st.plotly_chart(
            figure,
            key="bars",
            config={"displayModeBar": False},
            alt=f"Captions for {item.name[:60]}, best: {best}",
        )
        if share is None:
            st.caption("A share requires at least two captions. The bar shows the percentile.")
        elif softmax:
            st.caption("Shares add up to 100 % over the captions given; other captions are not considered.")
        with st.popover("Score cards", icon=":material/info:"):
            for hit in hits:
                caption = matrix.captions[hit.index]
                if st.button(
                    f"{hit.rank} · {views.plain(caption, 60)}",
                    key=f"card-caption-{hit.index}",
                    type="tertiary",
                ):
                    st.session_state["card"] = Card(item.sha256, caption, hit)
    return rankings


def _pick_image(items: Sequence[ImageItem]) -> int:
    """A select box of image names; returns the index of the chosen image."""
    by_hash = {item.sha256: position for position, item in enumerate(items)}
    picked = st.selectbox(
        "Image",
        list(by_hash),
        key="query-image",
        persist_state="session",
        format_func=lambda sha256: (
            f"{by_hash[sha256] + 1}. {items[by_hash[sha256]].name[:80]}" if sha256 in by_hash else ""
        ),
    )
    return by_hash.get(picked, 0)


def _downloads(
    view: View, matrix: ScoreMatrix, rankings: Sequence[Ranked], sections: Sequence[Section]
) -> None:
    """Files to take away."""
    encoder = view.encoder
    if encoder is None:
        return
    name = f"{catalogue.title(view.checkpoint)}, {' | '.join(view.templates.patterns)}"
    downloads = [
        Download(
            "Ranking (CSV)",
            "ranking.csv",
            "text/csv",
            lambda: files.ranking_csv(rankings, matrix.checkpoint, view.templates),
            "table",
        )
    ]
    if sections:
        footer = f"Scores under {name}. A cosine is not a probability."
        downloads.append(
            Download(
                "Grid (PNG)",
                "grid.png",
                "image/png",
                lambda: pictures.grid_png(sections, matrix.images, footer),
                "image",
            )
        )
    downloads.append(
        Download(
            "Embeddings (.npz)",
            "embeddings.npz",
            "application/octet-stream",
            lambda: files.embeddings_npz(encoder, matrix.images, matrix.captions, view.templates),
            "data_array",
        )
    )
    show_downloads(downloads)
    st.caption(
        f"Scored under {views.describe(matrix.checkpoint)}. The address bar holds page, captions, "
        "checkpoint, template and sample set, so you can share it; your own images are not part of the "
        "link."
    )
