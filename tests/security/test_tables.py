"""Tables that ask for gigabytes or minutes: each is read or refused with a sentence, in little memory."""

import io
import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from clipdemo import child
from clipdemo.errors import TableError
from clipdemo.limits import Limits
from clipdemo.tables import parquet as parquet_table
from clipdemo.tables.parquet import read_parquet
from clipdemo.tables.table import open_table
from clipdemo.ui.uploads import open_uploaded_table
from tests.security.fuzz_tables import fuzz

LIMITS = Limits()
TOO_MUCH = "takes too much memory or time to read, or is broken; create it again"


def packed(table, **options):
    out = io.BytesIO()
    parquet.write_table(pa.table(table), out, compression="zstd", **options)
    return out.getvalue()


def repeated(text, counts):
    """One row per count, with a list of so many equal texts."""
    values = pa.DictionaryArray.from_arrays(np.zeros(sum(counts), np.int8), [text])
    lists = pa.ListArray.from_arrays([0, *np.cumsum(counts)], values)
    return packed({"image": ["a"] * len(counts), "caption": lists}, store_schema=False)


def refusal(data, **columns):
    with pytest.raises(TableError) as caught:
        for _ in open_uploaded_table("t", data, LIMITS, **columns).rows():
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1_100
    return message


def varint(value, width=0):
    """A number as Thrift writes it, padded to a width."""
    rest, out = 2 * value, bytearray()
    while rest or len(out) < width:
        out.append(rest & 127 | 128)
        rest >>= 7
    out[-1] &= 127
    return bytes(out)


# Parquet


def test_a_list_of_millions_is_refused_by_the_metadata():
    data = repeated("0", [20_000_000])
    assert len(data) < 2_000
    assert "has 20,000,000 values in 1 row; the limit is 333,333 values a row" in refusal(data)


def test_a_cell_of_30_megabytes_is_refused_by_the_metadata():
    data = packed({"image": ["a"], "caption": ["x" * 30_000_000]})
    assert len(data) < 10_000
    assert "bytes in 1 row; the limit is 4,000,000 bytes a row" in refusal(data)


def test_a_page_that_claims_gigabytes_ends_the_child():
    """The metadata says little; the header of the page says that it unpacks to 1.9 GB."""
    size = 200_000_000
    data = packed({"image": ["a"], "caption": ["x" * size]}, use_dictionary=False, write_statistics=False)
    sizes = [varint(size + more) for more in range(200) if varint(size + more) in data]
    page, *others = sorted(sizes, key=data.index)
    assert others
    data = data.replace(page, varint(1_900_000_000), 1)
    for other in sizes:
        data = data.replace(other, varint(1_000, width=len(other)))
    assert TOO_MUCH in refusal(data)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce this limit")
def test_rows_that_are_small_on_average_only_end_the_child():
    data = repeated("x" * 100, [20_000_000, *[0] * 999])
    assert len(data) < 10_000
    assert TOO_MUCH in refusal(data)


def test_text_that_expands_a_thousandfold_is_refused_at_the_limit_of_the_page():
    texts = pa.DictionaryArray.from_arrays(np.zeros(2_000, np.int8), ["x" * 900_000])
    data = packed({"image": ["a"] * 2_000, "caption": texts}, store_schema=False)
    assert len(data) < 100_000
    assert "unpacks to more than 40,000,000 characters" in refusal(data)


def test_a_million_columns_of_parquet_are_refused():
    message = refusal(packed({f"c{number}": [1] for number in range(5_000)}))
    assert "1,001 columns or more; the limit is 1,000" in message


def test_too_many_rows_are_refused_by_the_metadata():
    data = packed({"image": ["a"] * 2_001, "caption": ["a"] * 2_001})
    assert refusal(data) == "the table has more than 2,000 rows, the limit here; split it"


def test_pictures_inside_a_table_are_not_read():
    """They have more bytes a row than a column that is read may have."""
    blob = bytes(10_000_000)
    table = {"image": [{"bytes": blob, "path": "a"}] * 10, "url": ["u"] * 10, "caption": ["c"] * 10}
    data = packed(table, row_group_size=2)
    rows = list(open_uploaded_table("t", data, LIMITS).rows())
    assert [row.cells for row in rows] == [("", "u", "c")] * 10


def test_any_number_of_readers_take_turns_and_at_most_two_children_run(monkeypatch):
    monkeypatch.setattr(parquet_table, "SLICE_BYTES", 100_000)
    texts = [f"{number} " + "x" * 100 for number in range(1_500)]
    data = packed({"image": texts, "caption": texts})
    table = open_table("t.parquet", lambda: io.BytesIO(data))
    started, start, guard = [], child.start, threading.Lock()

    def counting(module, memory, *arguments, **options):
        with guard:
            assert sum(process.poll() is None for process in started) < 2
            started.append(start(module, memory, *arguments, **options))
            assert int(memory) == parquet_table.MEMORY_BYTES
            return started[-1]

    monkeypatch.setattr(child, "start", counting)
    readers = [table.rows() for _ in range(5)]
    with ThreadPoolExecutor(5) as threads:
        firsts = list(threads.map(next, readers))
        assert [row.number for row in firsts] == [0] * 5
        assert all(process.poll() is not None for process in started)  # though all are in mid-table
        rests = list(threads.map(list, readers))
    assert all([row.caption for row in rest] == texts[1:] for rest in rests)
    assert len(started) > 10  # several slices each


def test_a_child_that_sleeps_is_ended_by_the_deadline(monkeypatch, tmp_path):
    data = packed({"image": ["a"], "caption": ["b"]})
    table = open_uploaded_table("t", data, LIMITS)
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(300)\n")
    monkeypatch.syspath_prepend(tmp_path)
    start = child.start
    monkeypatch.setattr(child, "start", lambda *_, **options: start("sleeper", **options))
    monkeypatch.setattr(parquet_table, "DEADLINE_SECONDS", 0.5)
    with pytest.raises(TableError, match=TOO_MUCH):
        next(table.rows())


def test_a_child_that_dies_becomes_one_sentence(monkeypatch):
    data = packed({"image": ["a"], "caption": ["b"]})
    table = open_uploaded_table("t", data, LIMITS)
    start = child.start

    def dying(*arguments, **options):
        process = start(*arguments, **options)
        process.kill()
        return process

    monkeypatch.setattr(child, "start", dying)
    with pytest.raises(TableError, match=TOO_MUCH):
        list(table.rows())
    assert TOO_MUCH in refusal(data)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        b"[" * 100_000,
        b"{}\n",
        b'[["a"]]\n',
        b"7\n",
        b'{"columns": 1}\n',
        b"x" * 50_000_000,
    ],
)
def test_whatever_a_child_answers_is_judged(monkeypatch, tmp_path, answer):
    (tmp_path / "answer").write_bytes(answer)
    start = child.start

    def lying(_module, *_arguments, **options):
        code = f"import sys; sys.stdout.buffer.write(open({str(tmp_path / 'answer')!r}, 'rb').read())"
        (tmp_path / "liar.py").write_text(code)
        return start("liar", **options)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(child, "start", lying)
    with pytest.raises(TableError, match=TOO_MUCH):
        read_parquet(lambda: io.BytesIO(b"PAR1"))


# Text: in a process that may take 150 MB more, though the files have up to 200 MB


READER = """
import json, sys
from pathlib import Path
from clipdemo import child
from clipdemo.errors import TableError
from clipdemo.limits import Limits
from clipdemo.tables.table import open_table
from clipdemo.ui.uploads import open_uploaded_table, uploaded_columns

limits = Limits()
for path in map(Path, sys.argv[1:]):
    child.limit(memory_bytes=150_000_000, cpu_seconds=60)
    try:
        if path.stat().st_size > limits.file_bytes:
            table = open_table(path.name, lambda: path.open("rb"))  # as the command does
        else:
            uploaded_columns(path.name, path.read_bytes(), limits)
            table = open_uploaded_table(path.name, path.read_bytes(), limits)
        print(json.dumps("; ".join(row.problem for row in table.rows())))
    except TableError as error:
        print(json.dumps(str(error)))
    table = None
"""
KEYS = json.dumps(dict.fromkeys(map(str, range(100_000)))).encode()
DEEP = b'{"image": "a", "caption": ' + b"[" * 1_000_000 + b"]" * 900_000 + b"}\n"
FINE = b'{"image": "a", "caption": "b"}\n'
HEAD = b"image,caption\n"
UTF_16 = "image,caption\na,".encode("utf-16")
HOSTILE = {
    "cell of 20 MB": ("csv", lambda: HEAD + b"a," + b"x" * 19_000_000, "the row has 2,000,000 characters"),
    "quoted cell of 20 MB": (
        "csv",
        lambda: HEAD + b'a,"' + b"x\n" * 9_000_000 + b'"',
        "more than 200,100 lines",
    ),
    "a million columns": ("csv", lambda: b"a," * 1_000_000 + b"\n", "header cannot be read|limit is 1,000"),
    "a million cells": ("csv", lambda: HEAD + b"a," * 900_000, "the row has 900,001 cells"),
    "a million deep": ("jsonl", lambda: DEEP + FINE, "nested too deeply"),
    "ten million digits": (
        "jsonl",
        lambda: FINE + b'{"n": ' + b"1" * 10_000_000 + b"}",
        "2,000,000 characters or more",
    ),
    "two million digits": (
        "jsonl",
        lambda: FINE + b'{"n": ' + b"1" * 1_900_000 + b"}",
        "a number with too many digits",
    ),
    "columns of one object": ("jsonl", lambda: KEYS, "columns or more; the limit"),
    "digits in CSV": ("csv", lambda: HEAD + b"a," + b"1" * 10_000_000, "2,000,000 characters or more"),
    "empty lines": ("csv", lambda: HEAD + b"\n" * 19_000_000, "more than 200,100 lines; split it"),
    "only empty lines": ("csv", lambda: b"\n" * 19_000_000, "more than 200,100 lines; split it"),
    "quotes": ("csv", lambda: HEAD + b'"\n' * 9_000_000, "more than 2,000 rows, the limit here"),
    "one row of quotes": (
        "csv",
        lambda: HEAD + b"a," + b'"' * 19_000_000,
        "the row has 2,000,000 characters",
    ),
    "quotes that reopen": ("csv", lambda: HEAD + b'x","y\n' * 3_000_000, "more than 200,100 lines"),
    "rows": ("csv", lambda: HEAD + b"a,b\n" * 4_000_000, "more than 2,000 rows, the limit here"),
    "objects": ("jsonl", lambda: FINE * 600_000, "more than 2,000 rows, the limit here"),
    "empty objects": ("jsonl", lambda: b"{}\n" * 6_000_000, "more than 2,000 rows, the limit here"),
    "UTF-16 rows": ("csv", lambda: UTF_16 + "b\na,".encode("utf-16-le") * 2_000_000, "more than 2,000 rows"),
    "UTF-16 cell": ("csv", lambda: UTF_16 + b"x\0" * 9_000_000, "2,000,000 characters"),
    "NUL": ("csv", lambda: b"image,caption\na,b\n" + b"\0" * 15_000_000, "byte 18 is NUL"),
    "UTF-16 NUL": ("csv", lambda: UTF_16 + b"\0" * 15_000_000, "2,000,000"),
    "row of 200 MB": ("csv", lambda: HEAD + b"a," + b"x" * 200_000_000, "the row has 2,000,000 characters"),
}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """What became of each hostile file."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = [folder / f"{number}.{suffix}" for number, (suffix, _, _) in enumerate(HOSTILE.values())]
    for path, (_, make, _) in zip(paths, HOSTILE.values(), strict=True):
        path.write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", READER, *paths], capture_output=True, text=True, timeout=300, check=False
    )
    for path in paths:
        path.unlink()
    assert done.returncode == 0, done.stderr[-500:]
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_or_refused_in_little_memory(sentences, name):
    assert re.search(HOSTILE[name][2], sentences[name])
    assert len(sentences[name]) < 500


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_mutants_of_tables_are_read_or_refused(kind):
    report = fuzz(kind, 200)
    assert sum(report.verdicts.values()) == 200
    assert not report.findings
