"""A comparison as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import Agreement, Comparison, Dispute, ordinal
from clipdemo.compare.tables import MEANINGS, cost_row, cost_sentence, recall_rows, truth_sentence
from clipdemo.compare.truth import Recall, Truth
from clipdemo.output import pictures
from clipdemo.output.html import data_uri, render
from clipdemo.scoring.prompts import Templates

MAX_DISPUTES = 12
THUMBNAIL = 96  # pixels; one file has hundreds of them

WHY_RANKS = (
    "Every model ranks the same images for the same captions and templates. Ranks are compared, never raw "
    "cosines: each model's cosines have a scale of their own, so 0.3 may be strong under one model and weak "
    "under another."
)


@dataclass(frozen=True)
class ReportDetails:
    """What a report shows besides the ranks.

    Attributes:
        templates: prompt templates, the same for all checkpoints.
        costs: title -> cost, of those that are measured.
        recalls: title -> recall; empty without ground truth.
        truth: None without ground truth.
    """

    templates: Templates
    costs: Mapping[str, Cost]
    recalls: Mapping[str, Recall]
    truth: Truth | None


def comparison_html(comparison: Comparison, titles: Sequence[str], details: ReportDetails, k: int) -> str:
    """A report as one HTML file, without scripts or requests.

    Args:
        comparison: the ranks.
        titles: a name for each checkpoint of the comparison.
        details: templates, costs and recall.
        k: images shown of each ranking, and cut-off of the overlap.
    """
    first = comparison.matrices[0]
    thumbnails = [
        data_uri(pictures.thumbnail_strip([item.thumbnail], THUMBNAIL, down=True)) for item in first.images
    ]
    report = _Report(comparison, titles, thumbnails, k)
    truth = details.truth
    return render(
        "compare.html",
        title=f"{', '.join(titles)}: rankings compared",
        titles=titles,
        why_ranks=WHY_RANKS,
        images=len(first.images),
        templates=" | ".join(details.templates.patterns),
        models=report.models(),
        agreement=report.agreement(comparison.mean_agreement(k)),
        meanings=MEANINGS.values(),
        disputes=[report.dispute(dispute) for dispute in comparison.disputes(MAX_DISPUTES)],
        recall=_recall_rows(details.recalls) if truth else [],
        truth=truth_sentence(truth, len(first.images)) if truth else "",
        costs=[cost_row(title, cost) for title, cost in details.costs.items()],
        cost_method=cost_sentence(),
        captions=[report.caption(column) for column in range(len(first.captions))],
    )


def _recall_rows(recalls: Mapping[str, Recall]) -> list[dict[str, object]]:
    return [
        {name: f"{100 * cell:.1f} %" if isinstance(cell, float) else cell for name, cell in row.items()}
        for row in recall_rows(recalls)
    ]


@dataclass(frozen=True)
class _Report:
    """A comparison, and its parts as the template shows them."""

    comparison: Comparison
    titles: Sequence[str]
    thumbnails: Sequence[str]
    k: int

    def models(self) -> list[dict[str, object]]:
        return [
            {
                "model": title,
                "checkpoint": matrix.checkpoint.id,
                "revision": matrix.checkpoint.revision,
                "tokens read": matrix.checkpoint.context_length,
            }
            for title, matrix in zip(self.titles, self.comparison.matrices, strict=True)
        ]

    def agreement(self, agreements: Iterable[Agreement]) -> list[dict[str, object]]:
        return [
            {
                "models": f"{self.titles[pair.first]} and {self.titles[pair.second]}",
                "Spearman": pair.spearman,
                "Kendall": pair.kendall,
                f"same in first {self.k}": None if pair.overlap is None else f"{100 * pair.overlap:.0f} %",
            }
            for pair in agreements
        ]

    def dispute(self, dispute: Dispute) -> dict[str, object]:
        first = self.comparison.matrices[0]
        return {
            "picture": self.thumbnails[dispute.image],
            "name": first.images[dispute.image].name[:100],
            "caption": first.captions[dispute.caption][:300],
            "ranks": [(title, ordinal(rank)) for title, rank in zip(self.titles, dispute.ranks, strict=True)],
        }

    def caption(self, column: int) -> dict[str, object]:
        """The first k images of one caption under each checkpoint, and the agreement on that caption."""
        order = self.comparison.ranks[:, :, column].argsort(axis=1)[:, : self.k]  # (n_checkpoints, k) images
        return {
            "text": self.comparison.matrices[0].captions[column],
            "agreement": self.agreement(self.comparison.agreement(column, self.k)),
            "lines": [
                [self._cell(column, side, image) for side, image in enumerate(images)]
                for images in order.T.tolist()
            ],
        }

    def _cell(self, column: int, side: int, image: int) -> dict[str, str]:
        """One image of a ranking, with its ranks under the other checkpoints."""
        ranks = zip(self.titles, self.comparison.ranks[:, image, column].tolist(), strict=True)
        elsewhere = [f"{ordinal(rank)} under {title}" for n, (title, rank) in enumerate(ranks) if n != side]
        return {
            "picture": self.thumbnails[image],
            "name": self.comparison.matrices[0].images[image].name[:100],
            "elsewhere": ", ".join(elsewhere),
        }
