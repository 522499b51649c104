"""What people take away as data: rankings and matrices as CSV, embeddings as ``.npz``. No streamlit here."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipdemo import similarity
from clipdemo.scoring.prompts import Query, Templates
from clipdemo.scoring.score import encode_queries
from clipdemo.similarity import FloatArray
from clipdemo.types import Checkpoint, Encoder, Hit, ImageItem

# Japanese editions of Excel run the full-width signs too; tabs and line ends are dropped before a cell is run.
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "\0")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Ranked:
    """A query with its hits among ``names``.

    Attributes:
        query: the caption or image name that was asked.
        hits: best first.
        names: what each ``Hit.index`` is called: image names, or captions.
        hashes: SHA-256 of each image; empty when captions were ranked.
        shares: (n,) share or sigmoid of each candidate, or None where it says nothing.
    """

    query: str
    hits: Sequence[Hit]
    names: Sequence[str]
    hashes: Sequence[str] = ()
    shares: Sequence[float] | None = None


def ranking_csv(rankings: Sequence[Ranked], checkpoint: Checkpoint, templates: Templates) -> bytes:
    """One row per query and candidate, UTF-8 with a byte-order mark so that spreadsheets read it right."""
    rows = [
        {
            "query": ranking.query,
            "rank": hit.rank,
            "name": ranking.names[hit.index],
            "cosine": round(hit.cosine, 6),
            "percentile": round(hit.percentile, 2),
            "sigmoid" if checkpoint.logit_bias is not None else "share": ""
            if ranking.shares is None
            else round(float(ranking.shares[hit.index]), 6),
            "sha256": ranking.hashes[hit.index] if ranking.hashes else "",
            "checkpoint": checkpoint.id,
            "revision": checkpoint.revision,
            "templates": " | ".join(templates.patterns),
        }
        for ranking in rankings
        for hit in ranking.hits
    ]
    table = pd.DataFrame(rows).map(lambda cell: inert(cell) if isinstance(cell, str) else cell)
    return table.to_csv(index=False).encode("utf-8-sig")


def matrix_csv(
    values: FloatArray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    notes: Mapping[str, str],
) -> bytes:
    """A row of values per row name, and beside them ``notes`` such as view, checkpoint and templates.

    Args:
        values: (n_rows, n_columns); nan becomes an empty cell.
        row_names: untrusted; names may come twice.
        column_names: untrusted as well.
        notes: heading -> text, the same in every row.
    """
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(["", *map(inert, column_names), *notes])
    for name, row in zip(row_names, values.tolist(), strict=True):
        numbers = ["" if math.isnan(value) else f"{value:.7g}" for value in row]
        write([inert(name), *numbers, *map(inert, notes.values())])
    return out.getvalue().encode("utf-8-sig")


def inert(cell: str) -> str:
    """The cell with an apostrophe before anything a spreadsheet would run as a formula.

    A plain number such as -1.5 or +3e-5 stays as it is.
    Source: OWASP, "CSV Injection".
    """
    bare = cell.strip(" ")
    return f"'{cell}" if bare.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(bare) else cell


def embeddings_npz(
    encoder: Encoder, items: Sequence[ImageItem], captions: Sequence[str], templates: Templates
) -> bytes:
    """Arrays ``images`` (n, dim) and ``captions`` (m, dim), float32 unit rows, and ``cosine`` (n, m).

    Beside them: ``names``, ``sha256``, ``caption_texts``, ``templates``, ``checkpoint``, ``revision`` and
    ``fingerprint``. Read it with ``numpy.load(file)``; nothing in it is pickled.
    """
    checkpoint = encoder.checkpoint
    rows = encoder.encode_images(items)
    columns = encode_queries(encoder, [Query.parse(caption) for caption in captions], templates)
    out = io.BytesIO()
    np.savez_compressed(
        out,
        images=rows,
        captions=columns,
        cosine=similarity.cosine(rows, columns),
        names=np.array([item.name for item in items], dtype=np.str_),
        sha256=np.array([item.sha256 for item in items], dtype=np.str_),
        caption_texts=np.array(list(captions), dtype=np.str_),
        templates=np.array(templates.patterns, dtype=np.str_),
        checkpoint=checkpoint.id,
        revision=checkpoint.revision,
        fingerprint=checkpoint.fingerprint,
    )
    return out.getvalue()
