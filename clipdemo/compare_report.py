"""What people take away from a comparison: tables as CSV and a one-file HTML report that opens offline."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from clipdemo import costs, figures
from clipdemo.compare import Agreement, Comparison, Dispute, ordinal
from clipdemo.costs import Cost
from clipdemo.limits import MEGABYTE
from clipdemo.prompts import Templates
from clipdemo.report import inert
from clipdemo.truth import MOST_PAIRS, Recall, Truth

MOST_DISPUTES = 12
THUMBNAIL = 96  # pixels; hundreds of them lie in one file

WHY_RANKS = (
    "Every model ranks the same images for the same captions, put into the same templates. Ranks are compared, never raw "
    "cosines: each model's cosines lie on a scale of their own, so 0.3 may be strong under one and weak under another."
)
MEANINGS = {
    "Spearman": "Spearman's rho: correlation of the two models' ranks of all images. 1 is the same order, 0 no "
    "relation, −1 the reverse.",
    "Kendall": "Kendall's tau-b: of all pairs of images, how many more are in the same order than in opposite order. "
    "1 is all, −1 none.",
    "overlap": "How many of the first images of one model are among the first of the other, whatever their order.",
}
COSTS = {
    "load, s": "From files on this machine to a ready model; the first one loaded also waits for its libraries.",
    "ms an image": "Milliseconds for one image, decoding not included.",
    "ms a caption": "Milliseconds for one caption, tokenising included.",
    "memory, MB": "What its weights hold.",
    "parameters, M": "Weights, in millions.",
    "embedding": "Numbers in one embedding.",
    "input, px": "Side of the square each image is shrunk to.",
    "download, MB": "Files to download; a dash where none were.",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #667085; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .ranks th, .ranks td { text-align: left; } .ranks td { overflow-wrap: anywhere; min-width: 7rem; }
td img { height: 4rem; border-radius: .3rem; display: block; } .faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; overflow-wrap: anywhere; font-size: .9rem; }
figure img { height: 6rem; }
"""


@dataclass(frozen=True)
class Facts:
    """What a report says beside the ranks.

    Attributes:
        templates: prompt templates, the same for all checkpoints.
        costs: title -> cost, as far as it is known.
        recalls: title -> recall; empty without ground truth.
        truth: the ground truth; None without.
    """

    templates: Templates
    costs: Mapping[str, Cost]
    recalls: Mapping[str, Recall]
    truth: Truth | None


def cost_row(title: str, cost: Cost) -> dict[str, object]:
    """One line of the cost table; None for what is not known."""
    load, speed, checkpoint = cost.load, cost.speed, cost.checkpoint
    downloaded = load.download_bytes if load else None
    return {
        "model": title,
        "ms an image": speed and speed.image_ms,
        "ms a caption": speed and speed.caption_ms,
        "load, s": load and load.load_seconds,
        "memory, MB": load and load.held_bytes / MEGABYTE,
        "parameters, M": checkpoint.parameters / 1e6,
        "embedding": checkpoint.dim,
        "input, px": checkpoint.image_size,
        "download, MB": None if downloaded is None else downloaded / MEGABYTE,
        "device": cost.device,
        "dtype": cost.dtype,
    }


def cost_sentence() -> str:
    """How the costs were measured."""
    count = costs.cores()
    return (
        f"Measured here and now, on {count} processor core{'s' if count > 1 else ''} shared with all visitors: the "
        f"median of {costs.LEAST} to {costs.MOST} batches of {costs.IMAGES} images and {costs.CAPTIONS} captions, after "
        "one that is not counted. Waiting for other visitors is not counted, their slowing down is."
    )


def costs_csv(known: Mapping[str, Cost]) -> bytes:
    """The cost table, with id and revision, as spreadsheets read it."""
    rows = []
    for title, cost in known.items():
        origin = {"id": cost.checkpoint.id, "revision": cost.checkpoint.revision}
        batch = {"images a batch": costs.IMAGES, "captions a batch": costs.CAPTIONS, "cores": costs.cores()}
        rows.append({**cost_row(title, cost), **batch, **origin})
    return _csv(rows)


def ranks_csv(comparison: Comparison, titles: Sequence[str], templates: Templates) -> bytes:
    """A row for each caption and image, a column of ranks for each checkpoint."""
    first = comparison.matrices[0]
    origin = {
        "checkpoints": " | ".join(f"{m.checkpoint.id} {m.checkpoint.revision}" for m in comparison.matrices),
        "templates": " | ".join(templates.patterns),
    }
    rows = [
        {
            "caption": caption,
            "image": item.name,
            "sha256": item.sha256,
            **{
                f"rank under {title}": int(rank)
                for title, rank in zip(titles, comparison.ranks[:, row, column], strict=True)
            },
            **origin,
        }
        for column, caption in enumerate(first.captions)
        for row, item in enumerate(first.images)
    ]
    return _csv(rows)


def recall_rows(found: Mapping[str, Recall]) -> list[dict[str, object]]:
    """Recall@1 and @5 of each checkpoint, both ways, 0 to 1."""
    return [
        {"model": title, "asks": asks, "questions": figures.queries}
        | {f"recall@{k}": figures.recall[k] for k in (1, 5)}
        for title, both in found.items()
        for asks, figures in (
            ("image → caption", both.image_to_text),
            ("caption → image", both.text_to_image),
        )
    ]


def truth_sentence(asked: Truth, images: int) -> str:
    """What was asked among what.

    Args:
        asked: the ground truth.
        images: in the workspace.
    """
    cut = f" Only the first {MOST_PAIRS:,} pairs were taken." if asked.left_out else ""
    return (
        f"{len(asked.images)} of {images} images have a right caption; {len(asked.captions)} captions in all. A question "
        "is a hit when any of its right answers is among the first k of these; other captions of the same image are no "
        f"rivals.{cut}"
    )


def compare_html(comparison: Comparison, titles: Sequence[str], facts: Facts, k: int) -> str:
    """A report in one file, without scripts and without anything from the network.

    Args:
        comparison: the ranks.
        titles: what people read for each of its checkpoints.
        facts: templates, costs and recall.
        k: images shown of each ranking, and cut-off of the overlap.
    """
    first = comparison.matrices[0]
    thumbnails = [_uri(item.thumbnail) for item in first.images]
    title = f"{', '.join(titles)}: rankings compared"
    captions = "".join(_caption(comparison, titles, n, k, thumbnails) for n in range(len(first.captions)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(WHY_RANKS)}</p>
<p>{len(first.images)} images, {len(first.captions)} captions. Templates: {escape(" | ".join(facts.templates.patterns))}.</p>
{_models(comparison, titles)}
<h2>How far they agree, mean of all captions</h2>
{_agreement(comparison.mean_agreement(k), titles, k)}
<ul class="faint">{"".join(f"<li>{escape(words)}</li>" for words in MEANINGS.values())}</ul>
<h2>Where they disagree most</h2>{_disputes(comparison, titles, thumbnails)}
{_recall(facts, len(first.images))}
<h2>Cost on this machine</h2>{_table([cost_row(name, cost) for name, cost in facts.costs.items()])}
<p class="faint">{escape(cost_sentence())}</p>
{captions}
</body></html>
"""


def _models(comparison: Comparison, titles: Sequence[str]) -> str:
    return _table(
        [
            {
                "model": title,
                "checkpoint": matrix.checkpoint.id,
                "revision": matrix.checkpoint.revision,
                "tokens read": matrix.checkpoint.context_length,
            }
            for title, matrix in zip(titles, comparison.matrices, strict=True)
        ]
    )


def _agreement(found: Iterable[Agreement], titles: Sequence[str], k: int) -> str:
    rows = [
        {
            "models": f"{titles[each.first]} and {titles[each.second]}",
            "Spearman": each.spearman,
            "Kendall": each.kendall,
            f"same in first {k}": None if each.overlap is None else f"{100 * each.overlap:.0f} %",
        }
        for each in found
    ]
    return _table(rows, decimals=2)


def _recall(facts: Facts, images: int) -> str:
    if not facts.recalls or facts.truth is None:
        return ""
    rows = [
        {name: f"{100 * cell:.1f} %" if isinstance(cell, float) else cell for name, cell in row.items()}
        for row in recall_rows(facts.recalls)
    ]
    words = escape(truth_sentence(facts.truth, images))
    return f'<h2>Who finds the right answers</h2>{_table(rows)}<p class="faint">{words}</p>'


def _disputes(comparison: Comparison, titles: Sequence[str], thumbnails: Sequence[str]) -> str:
    found = comparison.disputes(MOST_DISPUTES)
    if not found:
        return "<p>Nowhere: every model puts every image in the same place.</p>"
    tiles = "".join(_dispute(comparison, titles, each, thumbnails[each.image]) for each in found)
    return f'<div class="tiles">{tiles}</div>'


def _dispute(comparison: Comparison, titles: Sequence[str], found: Dispute, thumbnail: str) -> str:
    first = comparison.matrices[0]
    places = "".join(
        f"<div>{escape(title)}: <b>{ordinal(place)}</b></div>"
        for title, place in zip(titles, found.places, strict=True)
    )
    return (
        f'<figure><img alt="" loading="lazy" src="{thumbnail}"><figcaption>'
        f"<b>{escape(first.images[found.image].name[:100])}</b>"
        f"<div>{escape(first.captions[found.caption][:300])}</div>{places}</figcaption></figure>"
    )


def _caption(
    comparison: Comparison, titles: Sequence[str], column: int, k: int, thumbnails: Sequence[str]
) -> str:
    """The first k of one caption under each checkpoint, and how far they agree on it."""
    first = comparison.matrices[0]
    ranks = comparison.ranks[:, :, column]
    by_place = ranks.argsort(axis=1)[:, :k]  # (n_checkpoints, k) images
    lines = []
    for place in range(by_place.shape[1]):
        cells = []
        for side in range(len(titles)):
            image = int(by_place[side, place])
            others = ", ".join(
                f"{ordinal(int(rank))} under {title}"
                for n, (title, rank) in enumerate(zip(titles, ranks[:, image], strict=True))
                if n != side
            )
            cells.append(
                f'<td><img alt="" loading="lazy" src="{thumbnails[image]}">'
                f'{escape(first.images[image].name[:100])}<div class="faint">{escape(others)}</div></td>'
            )
        lines.append(f"<tr><td>{place + 1}</td>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(title)}</th>" for title in titles)
    agreement = _agreement(comparison.agreement(column, k), titles, k)
    return (
        f"<h2>{escape(first.captions[column])}</h2>{agreement}"
        f'<div class="wide"><table class="ranks"><tr><th></th>{heads}</tr>{"".join(lines)}</table></div>'
    )


def _table(rows: Sequence[Mapping[str, object]], decimals: int = 1) -> str:
    if not rows:
        return "<p>None.</p>"

    def shown(cell: object) -> str:
        if cell is None:
            return "–"
        return f"{cell:,.{decimals}f}" if isinstance(cell, float) else escape(str(cell))

    heads = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = "".join(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row.values())}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{heads}</tr>{lines}</table></div>'


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    """UTF-8 with a byte-order mark so that spreadsheets read it right; foreign text runs nothing there."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    for row in rows[:1]:
        write(map(inert, row))
    for row in rows:
        write([inert(cell) if isinstance(cell, str) else cell for cell in row.values()])
    return out.getvalue().encode("utf-8-sig")


def _uri(thumbnail: bytes) -> str:
    small = figures.thumbnail_strip([thumbnail], THUMBNAIL, down=True)
    return "data:image/jpeg;base64," + base64.b64encode(small).decode()
