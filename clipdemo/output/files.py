"""Exports rankings, matrices and embeddings as CSV and ``.npz``; must not import streamlit."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from clipdemo import similarity
from clipdemo.scoring.prompts import Query, Templates
from clipdemo.scoring.score import encode_queries
from clipdemo.similarity import FloatArray
from clipdemo.types import Checkpoint, Encoder, Hit, ImageItem

# Excel drops tabs and line ends before it runs a cell; its Japanese edition also runs full-width signs.
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "\0")
# Where a spreadsheet may begin another cell, whatever the CSV's own delimiter is; a comma is always quoted.
_CELL_STARTS = re.compile(r"(?<=[;\t|\r\n])(?=([ \"]*)([^;\t|\r\n]*))")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Ranked:
    """A query and its ranking.

    Attributes:
        query: a caption or an image name.
        hits: best first.
        names: image names or captions that ``Hit.index`` points into.
        hashes: SHA-256 of each image; empty when captions are ranked.
        shares: (n_candidates,) share or sigmoid; None where it is meaningless.
    """

    query: str
    hits: Sequence[Hit]
    names: Sequence[str]
    hashes: Sequence[str] = ()
    shares: Sequence[float] | None = None


class CsvWriter:
    """Writes CSV to a text stream, row by row; text that a spreadsheet would run as a formula is escaped."""

    def __init__(self, out: TextIO, header: Iterable[str], *, line_end: str = "\n") -> None:
        """Write the header.

        Args:
            out: opened with ``newline=""``.
            header: column names; untrusted.
            line_end: what ends each row.
        """
        # csv.writer quotes the characters of its own line end only: a lone "\r" would begin a row.
        self._write = csv.writer(_LineEnds(out, line_end), lineterminator="\r\n").writerow
        self.write(header)

    def write(self, row: Iterable[object]) -> None:
        """Write one row; None is an empty cell."""
        self._write([escape_formula(cell) if isinstance(cell, str) else cell for cell in row])


class _LineEnds:
    """Ends each row, which csv.writer writes with one call, as the file's reader expects.

    Args:
        out: the file.
        line_end: instead of CRLF.
    """

    def __init__(self, out: TextIO, line_end: str) -> None:
        self._out, self._line_end = out, line_end

    def write(self, row: str) -> None:
        """Write one row."""
        self._out.write(row.removesuffix("\r\n") + self._line_end)


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[object]], *, line_end: str = "\n") -> bytes:
    """A CSV file in UTF-8 with a byte-order mark, which spreadsheets need to read it right."""
    out = io.StringIO(newline="")
    writer = CsvWriter(out, header, line_end=line_end)
    for row in rows:
        writer.write(row)
    return out.getvalue().encode("utf-8-sig")


def ranking_csv(rankings: Iterable[Ranked], checkpoint: Checkpoint, templates: Templates) -> bytes:
    """One row for each query and candidate."""
    share = "share" if checkpoint.logit_bias is None else "sigmoid"
    header = [
        "query",
        "rank",
        "name",
        "cosine",
        "percentile",
        share,
        "sha256",
        "checkpoint",
        "revision",
        "templates",
    ]
    origin = checkpoint.id, checkpoint.revision, " | ".join(templates.patterns)
    rows = (
        (
            ranking.query,
            hit.rank,
            ranking.names[hit.index],
            round(hit.cosine, 6),
            round(hit.percentile, 2),
            None if ranking.shares is None else round(float(ranking.shares[hit.index]), 6),
            ranking.hashes[hit.index] if ranking.hashes else None,
            *origin,
        )
        for ranking in rankings
        for hit in ranking.hits
    )
    return csv_bytes(header, rows)


def matrix_csv(
    values: FloatArray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    notes: Mapping[str, str],
) -> bytes:
    """One row of values for each row name, followed by ``notes`` such as view, checkpoint and templates.

    Args:
        values: (n_rows, n_columns); nan becomes an empty cell.
        row_names: untrusted; may repeat.
        column_names: untrusted; may repeat.
        notes: column name -> text, the same in every row.
    """
    rows = (
        (name, *(None if math.isnan(value) else f"{value:.7g}" for value in row), *notes.values())
        for name, row in zip(row_names, values.tolist(), strict=True)
    )
    return csv_bytes(["", *column_names, *notes], rows)


def escape_formula(cell: str) -> str:
    """The cell, with an apostrophe before anything that a spreadsheet would run as a formula.

    Excel splits a row at semicolons where the comma is the decimal sign, at tabs in pasted text, and at line
    ends inside quotes that it then does not see. So what follows one of them, or a ``|``, counts, too. A
    plain number such as -1.5 or +3e-5 is not a formula and stays as it is.
    Source: OWASP, "CSV Injection".
    """
    guarded = _CELL_STARTS.sub(lambda start: "'" if _is_formula(start[2]) else "", cell)
    return f"'{guarded}" if _is_formula(cell) else guarded


def _is_formula(text: str) -> bool:
    bare = text.strip(" ")
    return bare.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(bare)


def embeddings_npz(
    encoder: Encoder, items: Sequence[ImageItem], captions: Sequence[str], templates: Templates
) -> bytes:
    """Arrays ``images`` (n, dim) and ``captions`` (m, dim), float32 unit rows, and ``cosine`` (n, m).

    The file also has ``names``, ``sha256``, ``caption_texts``, ``templates``, ``checkpoint``, ``revision``
    and ``fingerprint``. ``numpy.load(file)`` reads it without unpickling.
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
