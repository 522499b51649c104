"""Reads mutants of small tables and zips; ``python -m tests.security.fuzz_tables [COUNT]``.

Mutants are read in processes with limits, many in one; a process that dies is a finding, and the next goes on
behind its mutant. COUNT is the number of Parquet mutants; the other kinds keep their share.
"""

from __future__ import annotations

import csv
import io
import json
import random
import resource
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import parquet

from clipdemo import child
from clipdemo.errors import ClipdemoError
from clipdemo.images import sources
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.tables import parquet_reader
from clipdemo.tables.parquet import MEMORY_BYTES
from clipdemo.tables.table import open_table, read_columns
from tests.security.fuzz_images import TOKENS, mutate

LIMITS = Limits()
SECONDS, MEGABYTES = 5.0, 1_000
SHARES = {"parquet": 75, "jsonl": 15, "csv": 15, "zip": 20}  # thousands, in the long form
ROWS = [(f"{n}.jpg", f'a "cat", {n}; =1+1 🐈', n) for n in range(40)]
NAMES = ("image", "caption", "n")


def parquet_seeds() -> Iterator[bytes]:
    """Small files with lists, dictionaries, bytes, several row groups, codecs and page versions."""
    columns = dict(zip(NAMES, map(list, zip(*ROWS, strict=True)), strict=True))
    nested = {"tags": [[str(n)] * (n % 3) for n in range(40)], "raw": [b"\xff" * n for n in range(40)]}
    for options in (
        {"row_group_size": 15},
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "gzip", "use_dictionary": ["caption"], "write_page_index": True},
    ):
        out = io.BytesIO()
        parquet.write_table(pa.table(columns | nested), out, **options)
        yield out.getvalue()
    out = io.BytesIO()
    parquet.write_table(pa.table({"image": ["a"], "caption": [[0] * 1_000_000]}), out)
    yield out.getvalue()


def jsonl_seeds() -> Iterator[bytes]:
    """Lines with and without nesting."""
    yield "\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS).encode()
    yield b'{"image": "a", "caption": [[[{"b": [1e9, -0.0, null, "\\ud83d"]}]]]}\n{"image": "c"}\n' * 10


def csv_seeds() -> Iterator[bytes]:
    """Every delimiter and two encodings."""
    for delimiter, encoding in (",", "utf-8"), (";", "utf-16"), ("\t", "utf-8-sig"), ("|", "utf-8"):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter).writerows([NAMES, *ROWS])
        yield text.getvalue().encode(encoding)


def zip_seeds() -> Iterator[bytes]:
    """Stored, deflated and bzip2 members, folders, clutter, and sizes in zip64 fields."""
    for method in zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name in ("a.jpg", "folder/", "folder/b.png", "__MACOSX/c", "ü.jpg"):
                archive.writestr(name, b"" if name.endswith("/") else name.encode() * 50)
            with archive.open("large.jpg", "w", force_zip64=True) as member:
                member.write(bytes(5_000))
        yield out.getvalue()


def read_parquet(data: bytes) -> None:
    """Read as the child process of ``tables/parquet.py`` does, within its limits."""
    list(parquet_reader.answer(io.BytesIO(data), None))
    for number, _ in enumerate(parquet_reader.answer(io.BytesIO(data), 0)):
        if number > LIMITS.rows:
            break


def read_text(data: bytes) -> None:
    """Read as the page does."""
    columns = read_columns("t", lambda: io.BytesIO(data), LIMITS.rows)
    choice = {"image_column": columns[0], "caption_column": columns[-1]}
    for _ in open_table("t", lambda: io.BytesIO(data), max_rows=LIMITS.rows, **choice).rows():
        pass


def read_zip(data: bytes) -> None:
    """Unpack every member."""
    for item in sources.expand("t.zip", data, "upload", LIMITS):
        if isinstance(item, Source):
            with suppress(ClipdemoError):
                item.read()


KINDS: dict[str, tuple[Callable[[], Iterator[bytes]], Callable[[bytes], None]]] = {
    "parquet": (parquet_seeds, read_parquet),
    "jsonl": (jsonl_seeds, read_text),
    "csv": (csv_seeds, read_text),
    "zip": (zip_seeds, read_zip),
}


def mutant(kind: str, seeds: list[bytes], number: int) -> bytes:
    """The mutant of a number.

    Parquet and zip keep their directory at the end, so most keep their length and both
    ends, without which nobody reads on.
    """
    rng = random.Random(f"{kind} {number}")
    data = rng.choice(seeds)
    if kind in {"parquet", "zip"} and rng.random() < 0.7:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            new = rng.choice([rng.randbytes(1), rng.randbytes(4), *TOKENS])
            at = rng.randint(4, len(data) - 8 - len(new))
            changed[at : at + len(new)] = new
        return bytes(changed)
    return mutate(data, rng) if rng.random() < 0.5 else mutate(data[::-1], rng)[::-1]


def work(kind: str, first: int, end: int) -> None:
    """Judge the mutants from ``first`` to ``end``; prints one line before and one after each."""
    make_seeds, read = KINDS[kind]
    seeds = list(make_seeds())
    child.limit(memory_bytes=MEMORY_BYTES, cpu_seconds=parquet_reader.CPU_SECONDS)
    for number in range(first, end):
        child.limit_processor_time(parquet_reader.CPU_SECONDS)
        print(json.dumps({"number": number}), flush=True)
        data, before = mutant(kind, seeds, number), _peak()
        started = time.monotonic()
        try:
            read(data)
            verdict = "read"
        except ClipdemoError as error:
            verdict = type(error).__name__
        except MemoryError:
            verdict = "memory limit"
        except Exception as error:  # noqa: BLE001 - what the fuzzer looks for
            verdict = f"finding: {error!r}"[:200]
        seconds = time.monotonic() - started
        print(json.dumps({"verdict": verdict, "seconds": seconds, "growth": _peak() - before}), flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000


@dataclass
class Report:
    """What became of the mutants of one kind; growth in MB."""

    verdicts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    growth: float = 0.0
    findings: list[str] = field(default_factory=list)


def fuzz(kind: str, count: int) -> Report:
    """Judge ``count`` mutants of a kind in processes with limits."""
    report, following = Report(), 0
    while following < count:
        process = child.start("tests.security.fuzz_tables", kind, str(following), str(count))
        number = None
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                answer = json.loads(line)
                if "number" in answer:
                    number = answer["number"]
                    continue
                verdict, following = answer["verdict"], number + 1
                report.verdicts[verdict] += 1
                report.slowest = max(report.slowest, answer["seconds"])
                report.growth = max(report.growth, answer["growth"])
                bad = verdict == "memory limit" and kind != "parquet"
                if bad or verdict.startswith("finding") or answer["seconds"] > SECONDS:
                    report.findings.append(f"{kind} {number}: {verdict} in {answer['seconds']:.1f} s")
        if following < count:
            assert number is not None, "the process ended before its first mutant"
            report.verdicts[f"process ended ({process.returncode})"] += 1
            if kind != "parquet":  # whose reader is a process that may end
                report.findings.append(f"{kind} {number}: the process ended with {process.returncode}")
            following = number + 1
    return report


def main(count: int) -> int:
    """Print what was tried and found; returns the exit status."""
    findings = 0
    for kind, share in SHARES.items():
        started, number = time.monotonic(), count * share // SHARES["parquet"]
        report = fuzz(kind, number)
        findings += len(report.findings)
        print(f"{kind}: {number:,} mutants in {time.monotonic() - started:.0f} s, {dict(report.verdicts)}")
        print(f"  slowest {report.slowest:.2f} s, biggest growth {report.growth:.0f} MB", flush=True)
        print("".join(f"  {finding}\n" for finding in report.findings), end="", flush=True)
    return 1 if findings else 0


if __name__ == "__main__":
    if len(sys.argv) == 4:
        work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 75_000))
