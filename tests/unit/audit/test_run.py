"""A run from a table to its output: complete, resumable, or refused with a sentence before any work."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain_encoder import SQUARES, PlainEncoder, csv_of
from tiny_checkpoints import COLOURS

from clipdemo.audit import run as audit_run
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.run import AuditOptions, run_audit
from clipdemo.errors import FileMissingError, LedgerError, OutputError, TableError
from clipdemo.view import TowerView

ROWS = [(f"{colour}.png", f"a {colour} square {n % 9}") for n in range(40) for colour in COLOURS]


@pytest.fixture
def place(tmp_path):
    """A folder with photographs and a table of 320 rows."""
    for name, data in SQUARES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "in.csv").write_bytes(csv_of(ROWS))
    return tmp_path


def options_of(place, **changes):
    options = AuditOptions(
        table=place / "in.csv",
        output=place / "out.csv",
        figures=None,
        report=None,
        images=place,
        columns=(None, None),
        batch_size=4,
        workers=2,
        resume=False,
    )
    return replace(options, **changes)


def run(place, *, show=lambda *_: None, encoder=None, **changes):
    return run_audit(options_of(place, **changes), lambda: encoder or PlainEncoder(), show)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stopping_after(rows):
    def show(done, _total, _rate):
        if done >= rows:
            raise StoppedError

    return show


def test_every_row_is_written_with_its_results(place):
    result = run(place)
    header, *rows = read(place / "out.csv")
    assert header[:3] == ["image", "caption", "similarity"]
    assert [tuple(row[:2]) for row in rows] == ROWS
    assert {row[2] for row in rows} == {"1.000000"}
    assert (result.summary.rows, result.summary.failed) == (320, 0)
    assert sorted(os.listdir(place)) == sorted([*SQUARES, "in.csv", "out.csv"])


def test_the_result_as_json_has_every_figure(place):
    result = run(place, figures=place / "figures", report=place / "report.html")
    values = json.loads(result.as_json())
    assert values["summary"]["rows"] == 320
    assert values["summary"]["image_to_text"]["recall"]["1"] == 1.0
    names = [stage["name"] for stage in values["stages"]]
    assert {"read", "decode", "encode images", "encode captions", "score"} <= set(names)
    assert [Path(file).name for file in values["files"]] == [
        "out.csv",
        "image_captions.png",
        "similarity_matrix.png",
        "report.html",
    ]
    assert all(Path(file).is_file() for file in values["files"])
    assert values["peak_memory_bytes"] > 1_000_000
    assert values["device"] == "cpu"
    for words in ("320 of 320 rows scored", "recall@1 100.0 %", "peak memory", "encode images"):
        assert words in result.as_text()


@pytest.mark.parametrize("after", [0, 64, 200, 320])
def test_a_stopped_run_resumes_to_the_same_bytes(place, after):
    run(place, output=place / "whole.csv")
    with pytest.raises(StoppedError):
        run(place, show=stopping_after(after))
    assert len(read(place / "out.csv.partial")) == 1 + min(320, -(-after // 64) * 64)
    with pytest.raises(LedgerError, match=r"out\.csv\.progress holds the progress.*--resume.*delete"):
        run(place)
    encoder = PlainEncoder()
    result = run(place, resume=True, encoder=encoder)
    assert (place / "out.csv").read_bytes() == (place / "whole.csv").read_bytes()
    assert result.summary.rows == 320
    assert not list(place.glob("*.progress*"))
    if after >= 64:
        assert not set(SQUARES) & set(encoder.images)  # all were encoded before the stop


def test_the_partial_output_has_similarities_before_ranks(place):
    with pytest.raises(StoppedError):
        run(place, show=stopping_after(64))
    _, *rows = read(place / "out.csv.partial")
    assert {tuple(row[2:]) for row in rows} == {("1.000000", rows[0][3], "", "", "", "no", "", "")}


class Viewing(PlainEncoder):
    """The same checkpoint, for which images are prepared."""

    view = TowerView(8, 3)


def test_resuming_without_progress_starts_over(place):
    assert run(place, resume=True).summary.scored == 320


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda place: (place / "in.csv").write_bytes(csv_of(ROWS[:-1])), "a different table;"),
        (lambda place: {"encoder": PlainEncoder("other")}, "a different checkpoint;"),
        (lambda place: {"encoder": Viewing()}, "a different preparation of images;"),
        (lambda place: {"images": place / "elsewhere"}, "a different folder of images;"),
        (lambda place: {"report": place / "r.html"}, "was started with different --figures or --report;"),
        (
            lambda place: {"columns": ("caption", "image")},
            "a different image column and a different caption column;",
        ),
    ],
)
def test_a_different_run_is_not_resumed(place, change, words):
    (place / "elsewhere").mkdir()
    with pytest.raises(StoppedError):
        run(place, show=stopping_after(64))
    changes = change(place)
    before = (place / "out.csv.progress").stat().st_size
    with pytest.raises(LedgerError, match=words):
        run(place, resume=True, **(changes if isinstance(changes, dict) else {}))
    assert (place / "out.csv.progress").stat().st_size >= before > 0


def test_two_runs_cannot_write_the_same_output(place):
    with pytest.raises(StoppedError):
        run(place, show=stopping_after(64))
    other = Ledger(place / "out.csv.progress")
    with pytest.raises(LedgerError, match="in use; another run"):
        run(place, resume=True)
    other.close()
    assert run(place, resume=True).summary.scored == 320


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"table": "gone.csv"}, TableError, "no table"),
        ({"table": "."}, TableError, "not a regular file"),
        ({"output": "in.csv"}, OutputError, "is the table itself"),
        ({"output": "link.csv"}, OutputError, "is the table itself"),
        ({"report": "in.csv"}, OutputError, "is the table itself"),
        ({"output": "in", "table": "in.partial"}, OutputError, "is the table itself"),
        ({"report": "out.csv"}, OutputError, "cannot both be"),
        ({"output": "no/such/out.csv"}, OutputError, "there is no folder.*make it"),
        ({"report": "no/such/r.html"}, OutputError, "there is no folder.*make it"),
        ({"output": "folder"}, OutputError, "not a file"),
        ({"figures": "in.csv"}, OutputError, "not a folder"),
        ({"images": "no-photos"}, FileMissingError, "no folder of images"),
        ({"images": "in.csv"}, FileMissingError, "no folder of images"),
    ],
)
def test_impossible_options_are_refused_and_leave_nothing_behind(place, changes, error, words):
    (place / "folder").mkdir()
    (place / "link.csv").symlink_to(place / "in.csv")
    (place / "in.partial").write_bytes((place / "in.csv").read_bytes())
    before, table = sorted(os.listdir(place)), (place / "in.csv").read_bytes()
    options = options_of(place, **{key: place / value for key, value in changes.items()})
    with pytest.raises(error, match=words):
        run_audit(options, lambda: pytest.fail("a checkpoint was loaded for nothing"), lambda *_: None)
    assert sorted(os.listdir(place)) == before
    assert (place / "in.csv").read_bytes() == table


def test_a_pipe_is_never_replaced_by_a_file(place):
    pipe = place / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not a file"):
        run(place, output=pipe)
    assert pipe.is_fifo()


def test_a_folder_without_write_permission_is_named(place):
    locked = place / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(OutputError, match=r"cannot be created.*another folder"):
        run(place, output=locked / "out.csv")


@pytest.mark.parametrize("count", [0, 1])
def test_the_smallest_tables_have_an_output_pictures_and_a_report(place, count):
    (place / "in.csv").write_bytes(csv_of(ROWS[:count]))
    result = run(place, figures=place / "figures", report=place / "report.html", batch_size=1, workers=1)
    assert (result.summary.rows, result.summary.scored) == (count, count)
    assert len(read(place / "out.csv")) == 1 + count
    assert all(Path(file).stat().st_size for file in result.files)
    result.as_text()
    json.loads(result.as_json(), parse_constant=pytest.fail)


def test_a_table_in_which_every_row_fails_is_written_with_its_reasons(place):
    (place / "in.csv").write_bytes(csv_of([("gone.png", f"caption {n}") for n in range(100)]))
    result = run(place, figures=place / "figures", report=place / "report.html")
    assert (result.summary.scored, result.summary.failed) == (0, 100)
    assert all(row[-1].startswith("no such file") for row in read(place / "out.csv")[1:])


def changing(place, how):
    def show(done, _total, _rate):
        if done == 64:
            how(place / "in.csv")

    return show


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda file: file.write_bytes(csv_of(ROWS[:70])), "was changed.*delete.*progress"),
        (lambda file: file.write_bytes(csv_of(ROWS[::-1])), "was changed.*delete.*progress"),
        (lambda file: file.write_bytes(csv_of([*ROWS, ROWS[0]])), "was changed.*delete.*progress"),
        (lambda file: file.unlink(), "can no longer be read|cannot be read"),
    ],
    ids=["cut", "reversed", "longer", "deleted"],
)
def test_a_table_that_changes_during_the_run_is_not_mixed_with_old_scores(place, how, words):
    with pytest.raises(TableError, match=words):
        run(place, show=changing(place, how))
    assert not list(place.glob(".*"))


def test_formulas_are_neutralised_in_cells_and_header(place):
    text = csv_of([("red.png", "=1+1", "@x", "-5")], ("image", "caption", "=HYPERLINK()", "n")).decode()
    (place / "in.csv").write_text(text, "utf-8")
    run(place)
    header, row = read(place / "out.csv")
    assert header[:4] == ["image", "caption", "'=HYPERLINK()", "n"]
    assert row[:4] == ["red.png", "'=1+1", "'@x", "-5"]


def test_duplicate_headers_are_kept_and_noted(place):
    (place / "in.csv").write_bytes(csv_of([("red.png", "red", "blue")], ("image", "caption", "caption")))
    result = run(place)
    assert read(place / "out.csv")[0][:4] == ["image", "caption", "caption", "similarity"]
    assert "'caption' appears 2 times; the first is used" in result.as_text()


def test_an_output_can_be_scored_again(place):
    run(place)
    run(place, table=place / "out.csv", output=place / "again.csv")
    run(place, table=place / "again.csv", output=place / "third.csv")
    header = read(place / "third.csv")[0]
    assert len(header) == len(set(header)) == 2 + 3 * 8


def test_paths_with_any_letters(place):
    folder = place / "фото 😀 'quoted'"
    folder.mkdir()
    (folder / "a b.png").write_bytes(SQUARES["red.png"])
    (place / "in.csv").write_bytes(csv_of([("a b.png", "red")]))
    result = run(
        place, images=folder, output=folder / "=out.csv", report=folder / "r.html", figures=folder / "🖼"
    )
    assert result.summary.scored == 1
    json.loads(result.as_json())


def test_paths_that_are_not_text(place):
    try:
        folder = Path(os.fsdecode(os.path.join(os.fsencode(place), b"photos-\xff")))
        folder.mkdir()
    except OSError:
        pytest.skip("this file system refuses the name")
    for name, data in (("red.png", SQUARES["red.png"]), ("\udcff.csv", csv_of([("red.png", "red")]))):
        (folder / name).write_bytes(data)
    result = run(
        place, table=folder / "\udcff.csv", images=folder, output=folder / "o.csv", report=folder / "r.html"
    )
    result.as_text().encode()
    result.as_json().encode()
    assert result.summary.scored == 1


def test_progress_is_reported(place):
    seen = []
    run(place, show=lambda done, total, rate: seen.append((done, total, rate)))
    assert [done for done, *_ in seen] == [0, 64, 128, 192, 256, 320]
    assert {total for _, total, _ in seen} == {320}
    assert np.isfinite([rate for *_, rate in seen]).all()


def test_a_failing_last_step_keeps_the_progress(place, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "figures")

    monkeypatch.setattr(audit_run.audit_report, "write_figures", fail)
    with pytest.raises(OutputError, match=r"figures cannot be written.*No space left"):
        run(place)
    monkeypatch.undo()
    encoder = PlainEncoder()
    assert run(place, resume=True, encoder=encoder).summary.scored == 320
    assert not set(SQUARES) & set(encoder.images)
