"""``clipdemo pairs`` returns the table's own columns unchanged, row by row, whatever their text."""

import csv
import io
import json
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_encoder import PlainEncoder
from table_texts import LETTERS, PIECES

from clipdemo.audit.run import AuditOptions, run_audit
from clipdemo.output.files import escape_formula

CELL = st.text(LETTERS, max_size=8) | st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
ROWS = st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=6)
HEADER = ["image", "caption", "=note", "similarity"]


def through(data, name):
    """The output of a run over a table whose images do not exist."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / name).write_bytes(data)
        options = AuditOptions(
            place / name,
            place / "out.csv",
            None,
            None,
            place,
            (None, None),
            batch_size=2,
            workers=1,
            resume=False,
        )
        result = run_audit(options, PlainEncoder, lambda *_: None)
        with (place / "out.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    assert result.summary.rows == result.summary.failed == len(rows)
    return header, rows


def unchanged(rows, found):
    """The same cells, with apostrophes where a spreadsheet would run them, and a reason at the end."""
    header, lines = found
    assert header[:4] == ["image", "caption", "'=note", "similarity"]
    assert header[4] == "clipdemo_similarity"
    assert [line[:4] for line in lines] == [[escape_formula(cell) for cell in row] for row in rows]
    assert [cell.replace("'", "") for line in lines for cell in line[:4]] == [
        cell.replace("'", "") for row in rows for cell in row
    ]
    assert all(line[-1] and not any(line[4:-1]) for line in lines)


# An image cell that names a file or the web would be looked for; these name nothing.
NOWHERE = ROWS.map(lambda rows: [(f"{image} nowhere", *others) for image, *others in rows])


@given(NOWHERE)
@example([("=1 nowhere", "@x", "\t", "''")])
@settings(max_examples=25)
def test_cells_of_a_csv_are_unchanged(rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *rows])
    unchanged(rows, through(text.getvalue().encode(), "t.csv"))


@given(NOWHERE.filter(len), st.sampled_from(["", "\0"]))
@settings(max_examples=25)
def test_cells_of_a_jsonl_table_are_unchanged(rows, extra):
    rows = [(*row[:2], row[2] + extra, row[3]) for row in rows]
    lines = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in rows]
    unchanged(rows, through("\n".join(lines).encode(), "t.jsonl"))
