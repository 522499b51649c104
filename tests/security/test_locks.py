"""Two runs on one output: the second is refused while the first lives; the first is not called stopped."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from plain_encoder import SQUARES, PlainEncoder, csv_of
from tiny_checkpoints import COLOURS
from training import run as run_train
from training import train_options, write_pairs

from clipdemo import lock
from clipdemo.audit.run import AuditOptions, run_audit
from clipdemo.errors import LedgerError, OutputError
from clipdemo.lock import lock_outputs
from clipdemo.train.run import run_training

HOLDER = """
import sys, time
from pathlib import Path
from clipdemo.lock import lock_outputs
with lock_outputs(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """A function that starts a process with a lock on a path; it keeps the lock until it is ended."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def place(tmp_path):
    for name, data in SQUARES.items():
        (tmp_path / name).write_bytes(data)
    rows = [(f"{colour}.png", f"a {colour} square {n}") for n in range(20) for colour in COLOURS]
    (tmp_path / "in.csv").write_bytes(csv_of(rows))
    return tmp_path


def run_pairs(place, *, output="out.csv", report=None, resume=False, show=lambda *_: None):
    options = AuditOptions(
        table=place / "in.csv",
        output=place / output,
        figures=None,
        report=place / report if report else None,
        images=place,
        columns=(None, None),
        batch_size=4,
        workers=2,
        resume=resume,
    )
    return run_audit(options, PlainEncoder, show)


def test_a_second_process_is_refused_with_the_number_of_the_first(holder, tmp_path):
    first = holder(tmp_path / "out.csv")
    with pytest.raises(OutputError) as caught, lock_outputs(tmp_path / "out.csv"):
        pytest.fail("two runs have the lock")
    assert str(caught.value) == (
        f"another run (process {first.pid}) is writing {tmp_path / 'out.csv'}; wait until it has ended, or "
        "name another output"
    )


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_pairs_run_is_refused_and_the_first_is_not_called_stopped(place, resume):
    refusals = []

    def second(done, _total, _rate):
        if done == 64:
            with pytest.raises(OutputError) as caught:
                run_pairs(place, resume=resume)
            refusals.append(str(caught.value))

    assert run_pairs(place, show=second).summary.scored == 160
    assert refusals == [
        f"another run (process {os.getpid()}) is writing {place / 'out.csv'}; wait until it has ended, or "
        "name another output"
    ]
    assert not list(place.glob("*out.csv.*"))


def test_two_pairs_runs_with_one_report_are_refused(holder, place):
    holder(place / "report.html")
    with pytest.raises(OutputError, match=r"is writing .*report\.html"):
        run_pairs(place, report="report.html")
    assert not list(place.glob("*out.csv*"))


def test_a_second_name_of_the_same_file_has_the_same_lock(holder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "other.csv").symlink_to(tmp_path / "real" / "out.csv")
    holder(tmp_path / "real" / "out.csv")
    for name in ("link/out.csv", "other.csv", "real/../real/out.csv"):
        with pytest.raises(OutputError, match="another run"), lock_outputs(tmp_path / name):
            pytest.fail("two runs have the lock")


def test_a_killed_run_has_no_lock_and_is_called_stopped(holder, place):
    first = holder(place / "out.csv")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (place / ".out.csv.clipdemo-lock").read_text() == f"{first.pid}\n"
    (place / "out.csv.progress").touch()
    with pytest.raises(LedgerError, match="a run that was stopped; add --resume"):
        run_pairs(place)
    assert run_pairs(place, resume=True).summary.scored == 160
    assert not list(place.glob("*out.csv.*"))


def test_a_second_training_run_is_refused_with_and_without_resume(tmp_path, tiny_towers, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = write_pairs(tmp_path)
    image, text = map(str, tiny_towers)
    towers, refusals = {"image_tower": image, "text_tower": text, "batch_size": 8}, []

    def second(progress):
        if progress.step == 2:
            for resume in (False, True):
                with pytest.raises(OutputError) as caught:
                    run_train(table, tmp_path / "m", **towers, resume=resume)
                refusals.append(str(caught.value))

    options = train_options(table, tmp_path / "m", **towers, epochs=1)
    run_training(options, second, lambda *_: None)
    assert len(refusals) == 2
    assert all(
        f"another run (process {os.getpid()}) is writing {tmp_path / 'm'};" in each for each in refusals
    )
    assert not (tmp_path / ".m.clipdemo-lock").exists()


def test_of_many_that_come_at_once_one_at_a_time_has_the_lock(tmp_path):
    """Locks are taken and deleted all the time: no two threads are ever inside, and each gets in."""
    output, inside, entered, failures = tmp_path / "out.csv", threading.Lock(), [], []

    def visit(number):
        deadline = time.monotonic() + 60
        visits = 0
        while visits < 50 and time.monotonic() < deadline:
            try:
                with lock_outputs(output):
                    if not inside.acquire(blocking=False):
                        failures.append("two at once")
                        return
                    visits += 1
                    inside.release()
            except OutputError:
                time.sleep(0)
        entered.append((number, visits))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(entered) == [(number, 50) for number in range(8)]
    assert not (tmp_path / ".out.csv.clipdemo-lock").exists()


def test_a_lock_file_deleted_between_opening_and_locking_is_made_again(tmp_path, monkeypatch):
    """The run before ends at that moment: a lock on its deleted file would keep nobody away."""
    path, try_lock, deleted = tmp_path / ".out.csv.clipdemo-lock", lock._try_lock, []

    def end_of_the_run_before(descriptor):
        if not deleted:
            deleted.append(path.unlink())
        return try_lock(descriptor)

    monkeypatch.setattr(lock, "_try_lock", end_of_the_run_before)
    with lock_outputs(tmp_path / "out.csv"):
        assert path.read_text() == f"{os.getpid()}\n"
    assert deleted


def test_an_empty_lock_file_and_that_of_a_killed_run_are_no_hindrance(tmp_path):
    path = tmp_path / ".out.csv.clipdemo-lock"
    for content in (b"", b"123\n", b"123\r\n"):
        path.write_bytes(content)
        with lock_outputs(tmp_path / "out.csv"):
            assert path.read_text() == f"{os.getpid()}\n"
        assert not path.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"not a number", b"9" * 5000, b"1\n2\n"])
def test_a_strange_lock_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / ".out.csv.clipdemo-lock"
    path.write_bytes(content)
    with (
        pytest.raises(OutputError, match="is not a lock of clipdemo; move it away"),
        lock_outputs(tmp_path / "out.csv"),
    ):
        pytest.fail("locked")
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_a_link_in_place_of_the_lock_file_is_refused_and_its_file_left_alone(tmp_path, kind):
    (tmp_path / "mine").write_bytes(b"42\n")
    path = tmp_path / ".out.csv.clipdemo-lock"
    getattr(path, kind)(tmp_path / "mine")
    with pytest.raises(OutputError, match="is not a lock of clipdemo"), lock_outputs(tmp_path / "out.csv"):
        pytest.fail("locked")
    assert (tmp_path / "mine").read_bytes() == b"42\n"
    assert path.exists()


def test_a_lock_leaves_files_of_the_user_alone(tmp_path):
    """``--output uv`` beside the lock file of the package manager."""
    (tmp_path / "uv.lock").write_bytes(b"version = 1\n")
    with lock_outputs(tmp_path / "uv"):
        assert (tmp_path / "uv.lock").read_bytes() == b"version = 1\n"
    assert os.listdir(tmp_path) == ["uv.lock"]


def test_a_folder_in_place_of_the_lock_file_is_a_sentence(tmp_path):
    (tmp_path / ".out.csv.clipdemo-lock").mkdir()
    with (
        pytest.raises(OutputError, match=r"out\.csv\.clipdemo-lock cannot be created"),
        lock_outputs(tmp_path / "out.csv"),
    ):
        pytest.fail("locked")
