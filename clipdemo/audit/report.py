"""What people take away from an audit: its pictures and a one-file HTML report that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from clipdemo import similarity
from clipdemo.audit.footprint import Stage
from clipdemo.audit.judge import FLAGS, Audit, Summary, result_columns
from clipdemo.limits import MEGABYTE
from clipdemo.models import catalogue
from clipdemo.output import pictures
from clipdemo.output.pictures import Tile
from clipdemo.scoring.retrieval import RetrievalMetrics
from clipdemo.tables.table import Table

MOST_TILES = 200  # pairs in a picture or report: the worst ones
MOST_LINES = 200  # rows of the pictured matrix: the first ones

DEFINITION = (
    "A query is a hit when any of its right answers is among the first k. Other captions of the same image, "
    "and equal images, are not counted as rivals. Ranks are exact, among all images and captions that were scored."
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: light-dark(#667085, #98a2b3); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; padding: 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; overflow-wrap: anywhere; }
figure img { width: 100%; height: 10rem; object-fit: contain; } figcaption { font-size: .9rem; }
.faint { color: var(--faint); } .flag { font-weight: 600; color: #b54708; } img.wide { max-width: 100%; }
"""


def header(table: Table) -> list[str]:
    """The header of the scored table."""
    return [*table.columns, *result_columns(table)]


def write_figures(audit: Audit, folder: Path | None) -> list[str]:
    """Write ``image_captions.png`` and ``similarity_matrix.png``; gives their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in (
        ("image_captions.png", image_captions_png(audit)),
        ("similarity_matrix.png", similarity_matrix_png(audit)),
    ):
        (folder / name).write_bytes(data)
        written.append(str(folder / name))
    return written


def image_captions_png(audit: Audit, most: int = MOST_TILES) -> bytes:
    """Each image with its caption and score, worst first; at most ``most`` pairs."""
    worst = audit.worst()[:most].tolist()
    tiles = [
        Tile(
            audit.ledger.thumbnail(int(audit.pairs[pair, 0])) or b"",
            audit.caption(pair),
            f"cosine {audit.cosines[pair]:.3f} · percentile {int(audit.percentiles[pair])}",
            "; ".join(audit.flags[pair]),
        )
        for pair in worst
    ]
    left_out = len(audit.pairs) - len(worst)
    part = f" The {len(worst)} worst of {len(audit.pairs):,} pairs." if left_out else " Worst first."
    return pictures.contact_sheet_png(
        tiles, f"Scores under {_name(audit)}. A cosine is not a probability.{part}"
    )


def similarity_matrix_png(audit: Audit, most: int = MOST_LINES) -> bytes:
    """Images against captions of the first ``most`` scored rows, each image and caption once."""
    values, images, captions = matrix(audit, most)
    thumbnails = [audit.ledger.thumbnail(image) or b"" for image in images]
    return pictures.matrix_png(
        values,
        [audit.short_name(image) for image in images],
        [audit.ledger.caption_text(caption)[0] for caption in captions],
        row_thumbnails=thumbnails if all(thumbnails) else None,
        title="Cosine of images and captions",
        footer=f"Under {_name(audit)}. The first {len(images)} images and {len(captions)} captions of the table.",
        unit="cosine",
    )


def matrix(audit: Audit, most: int) -> tuple[similarity.FloatArray, list[int], list[int]]:
    """Cosines of the images and captions of the first ``most`` scored rows, and their ids.

    A right pair lies on the diagonal where each image has one caption.
    """
    first = audit.pairs[:most]
    images = list(dict.fromkeys(first[:, 0].tolist()))
    captions = list(dict.fromkeys(first[:, 1].tolist()))
    if not images:
        return np.zeros((0, 0), dtype=np.float32), [], []
    rows = audit.ledger.image_embeddings(images), audit.ledger.caption_embeddings(captions)
    return similarity.cosine(*rows), images, captions


def audit_html(audit: Audit, summary: Summary, footprint: str, most: int = MOST_TILES) -> str:
    """A report in one file, without scripts and without anything from the network.

    Args:
        audit: the scored table.
        summary: of it.
        footprint: time and memory, as HTML from :func:`footprint_html`.
        most: pairs shown, worst first.
    """
    worst = audit.worst()[:most].tolist()
    title = f"{audit.table.name}: image and caption audit"
    flags = "".join(f"<tr><td>{flag}</td><td>{summary.flags[flag]:,}</td></tr>" for flag in FLAGS)
    figure = ""
    if len(audit.pairs):
        figure = f'<img class="wide" alt="Cosines of images and captions as a matrix" src="{_uri(similarity_matrix_png(audit), "png")}">'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>Scored under <b>{escape(_name(audit))}</b>, revision {escape(audit.checkpoint.revision)}.
A cosine is not a probability; read it beside its percentile, against unrelated pairs under the same checkpoint.</p>
<table><tr><th>rows</th><th></th></tr>
<tr><td>in the table</td><td>{summary.rows:,}</td></tr><tr><td>scored</td><td>{summary.scored:,}</td></tr>
<tr><td>failed</td><td>{summary.failed:,}</td></tr><tr><td>distinct images</td><td>{summary.images:,}</td></tr>
<tr><td>distinct captions</td><td>{summary.captions:,}</td></tr><tr><td>captions cut off</td><td>{summary.truncated:,}</td></tr>
{flags}</table>
<h2>Retrieval</h2><p class="faint">{DEFINITION}</p>
{_retrieval(summary.image_to_text, summary.text_to_image)}
{_notes(audit.table.notes)}
<h2>The worst pairs</h2><p class="faint">{len(worst):,} of {len(audit.pairs):,}, lowest percentile first.</p>
<div class="tiles">{"".join(_tile(audit, pair) for pair in worst)}</div>
<h2>Every image with every caption</h2>{figure}
<h2>Time and memory</h2>{footprint}
</body></html>
"""


def footprint_html(
    stages: Sequence[Stage], seconds: float, device: str, resident: int | None, gpu: int | None
) -> str:
    """Time of each stage and the most memory held, as a table."""
    lines = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{s.seconds:.2f}</td><td>{s.items:,}</td><td>{s.rate:,.1f}</td></tr>"
        for s in stages
    )
    memory = "" if resident is None else f" Peak memory of the process {resident / MEGABYTE:,.0f} MB."
    memory += "" if gpu is None else f" Peak memory on the GPU {gpu / MEGABYTE:,.0f} MB."
    return (
        "<table><tr><th>stage</th><th>seconds of work</th><th>items</th><th>items a second</th></tr>"
        f"{lines}</table><p>{seconds:.1f} seconds in all, on {escape(device)}; stages overlap and run in "
        f"several threads.{memory}</p>"
    )


def _retrieval(image_to_text: RetrievalMetrics[float], text_to_image: RetrievalMetrics[float]) -> str:
    both = (("image to text", image_to_text), ("text to image", text_to_image))
    cuts = "".join(f"<th>recall@{k}</th>" for k in image_to_text.recall)
    lines = "".join(
        f"<tr><td>{name}</td><td>{found.queries:,}</td>"
        + "".join(f"<td>{100 * value:.1f} %</td>" for value in found.recall.values())
        + f"<td>{found.mean_reciprocal_rank:.3f}</td><td>{found.median_rank:g}</td></tr>"
        for name, found in both
    )
    return f"<table><tr><th>direction</th><th>queries</th>{cuts}<th>MRR</th><th>median rank</th></tr>{lines}</table>"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p>Note: {escape(note)}</p>" for note in notes)


def _tile(audit: Audit, pair: int) -> str:
    image = int(audit.pairs[pair, 0])
    thumbnail = audit.ledger.thumbnail(image)
    picture = f'<img alt="" loading="lazy" src="{_uri(thumbnail, "jpeg")}">' if thumbnail else ""
    flags = "".join(f'<div class="flag">{escape(flag)}</div>' for flag in audit.flags[pair])
    rival = audit.rival_caption(pair)
    best = f'<div class="faint">best rival: {escape(rival[:200])}</div>' if rival else ""
    return (
        f"<figure>{picture}<figcaption><b>{escape(audit.caption(pair)[:300])}</b>"
        f"<div>row {int(audit.numbers[pair]) + 1}: {escape(audit.image_name(image)[:100])}</div>"
        f"<div>cosine {audit.cosines[pair]:.3f}, percentile {int(audit.percentiles[pair])}</div>"
        f"<div>caption rank {audit.rivals.rank_of_caption[pair]}, image rank {audit.rivals.rank_of_image[pair]}</div>"
        f"{best}{flags}</figcaption></figure>"
    )


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _name(audit: Audit) -> str:
    return catalogue.title(audit.checkpoint.id)
