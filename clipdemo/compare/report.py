"""A comparison as a one-file HTML report that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import Agreement, Comparison, Dispute, ordinal
from clipdemo.compare.tables import MEANINGS, cost_row, cost_sentence, recall_rows, truth_sentence
from clipdemo.compare.truth import Recall, Truth
from clipdemo.output import pictures
from clipdemo.scoring.prompts import Templates

MOST_DISPUTES = 12
THUMBNAIL = 96  # pixels; hundreds of them lie in one file

WHY_RANKS = (
    "Every model ranks the same images for the same captions, put into the same templates. Ranks are compared, never raw "
    "cosines: each model's cosines lie on a scale of their own, so 0.3 may be strong under one and weak under another."
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: light-dark(#667085, #98a2b3); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .ranks th, .ranks td { text-align: left; } .ranks td { overflow-wrap: anywhere; }
.ranks td + td { min-width: 7rem; }
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


def _uri(thumbnail: bytes) -> str:
    small = pictures.thumbnail_strip([thumbnail], THUMBNAIL, down=True)
    return "data:image/jpeg;base64," + base64.b64encode(small).decode()
