"""Any text in a table is read back as it was written; any bytes are a table or raise TableError."""

import csv
import io
import json
from contextlib import suppress

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from table_texts import LETTERS, PIECES

from clipdemo.errors import TableError
from clipdemo.tables.parquet_reader import answer
from clipdemo.tables.table import open_table, read_columns

TEXT = st.text(LETTERS, max_size=8) | st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=6)
HEADER = ("image", "caption", "more")


def read(name, data):
    table = open_table(name, lambda: io.BytesIO(data))
    rows = list(table.rows())
    assert table.columns == HEADER
    assert table.count == len(rows)
    assert table.notes == ()
    assert [row.problem for row in rows] == [""] * len(rows)
    return [row.cells for row in rows]


@given(
    ROWS,
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example([(" ", '" x "', ' "x'), ("", "", "")], ";", csv.QUOTE_MINIMAL, "utf-8")
def test_what_csv_writes_is_read_back(rows, delimiter, quoting, encoding):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows([HEADER, *rows])
    name = "t.tsv" if delimiter == "\t" else "t.csv"
    assert read(name, text.getvalue().encode(encoding)) == rows


@given(ROWS.filter(len), st.booleans())
def test_what_json_writes_is_read_back(rows, ascii_only):
    lines = [json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    assert read("t.jsonl", "\n".join(lines).encode()) == rows


@given(ROWS, st.integers(1, 4))
def test_what_parquet_writes_is_read_back(rows, group):
    data = packed(rows, group)
    *records, end = answer(io.BytesIO(data), 0)
    assert [tuple(cells) for cells, problem in records if not problem] == rows
    assert end == "end"


@given(ROWS, st.integers(1, 4))
@settings(max_examples=5)  # each reads the file three times, in a new process
def test_what_parquet_writes_is_read_back_from_the_child(rows, group):
    assert read("t.parquet", packed(rows, group)) == rows


def packed(rows, group):
    columns = {name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(HEADER)}
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, row_group_size=group)
    return out.getvalue()


def check(name, data):
    """Only TableError may be raised, and the count must match the rows."""
    try:
        columns = read_columns(name, lambda: io.BytesIO(data))
        table = open_table(
            name, lambda: io.BytesIO(data), image_column=columns[0], caption_column=columns[-1]
        )
        rows = list(table.rows())
    except TableError:
        return
    assert table.count == len(rows)
    assert all(len(row.cells) == len(columns) for row in rows)
    assert list(table.rows(1)) == rows[1:]


@given(
    st.sampled_from(
        [b"", b"image,caption\n", b'{"image": "a", "caption": "b"}\n', b"\xff\xfe", b"\xef\xbb\xbf", b"PAR1"]
    ),
    st.lists(
        st.binary(max_size=4) | st.sampled_from([*(p.encode() for p in PIECES), b"{", b"}", b"[", b":"])
    ),
    st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t"]),
)
def test_any_bytes_are_a_table_or_a_table_error(start, pieces, name):
    check(name, start + b"".join(pieces))


SOUND = io.BytesIO()
parquet.write_table(
    pa.table(
        {"image": [f"{n}.jpg" for n in range(50)], "n": [[n] for n in range(50)], "caption": ["x"] * 50}
    ),
    SOUND,
    row_group_size=20,
)


@given(
    st.lists(
        st.tuples(st.integers(4, len(SOUND.getvalue()) - 9), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_damaged_parquet_is_a_table_or_a_table_error(changes):
    data = bytearray(SOUND.getvalue())
    for at, value in changes:
        data[at] = value
    with suppress(TableError):
        header = next(answer(io.BytesIO(data), None))
        *records, end = answer(io.BytesIO(data), 0)
        assert all(len(cells) == len(header["columns"]) for cells, _ in records)
        assert list(answer(io.BytesIO(data), 1)) == [*records[1:], end]
