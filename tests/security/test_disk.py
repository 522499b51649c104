"""Full disks and read-only folders: a sentence blames the right file, nothing is lost or half written.

The disks are real and small; what fails is whatever happens to be written when they are full.
"""

import csv
import os
import random
import secrets

import pytest
import torch
from plain_encoder import SQUARES, PlainEncoder, csv_of
from safetensors.numpy import load_file
from small_disk import read_only, resize, small_disk
from stand_in_hub import Fault, StandInHub
from tiny_checkpoints import COLOURS
from training import run as run_train
from training import write_pairs

from clipdemo.audit.ledger import Ledger, ScoredRow
from clipdemo.audit.run import AuditOptions, run_audit
from clipdemo.cli.images import _write
from clipdemo.disk import replacement, write_atomically
from clipdemo.errors import CheckpointError, ClipdemoError, LedgerError, OutputError
from clipdemo.models.hub import snapshot as hub
from tests.security.kills import HUB_NAME, download_victim, hub_repository, kill_repeatedly

ENOUGH = 50_000  # kilobytes
OLD = b"an earlier output, complete\n"
ADVICE = "resume|free some disk space|make room|another folder|writable"


@pytest.fixture
def place(tmp_path):
    """A folder with photographs and a table, on a disk with room."""
    for name, data in SQUARES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def run_pairs(place, disk, copies, *, resume=False, pictures=False):
    rows = [(f"{colour}.png", f"a {colour} square {n}") for n in range(copies) for colour in COLOURS]
    (place / "in.csv").write_bytes(csv_of(rows))
    options = AuditOptions(
        table=place / "in.csv",
        output=disk / "out.csv",
        figures=disk / "figures" if pictures else None,
        report=disk / "report.html" if pictures else None,
        images=place,
        columns=(None, None),
        batch_size=4,
        workers=2,
        resume=resume,
    )
    return run_audit(options, PlainEncoder, lambda *_: None)


def is_whole(path):
    content = path.read_bytes()
    if path.suffix == ".png":
        return content.endswith(b"IEND\xaeB`\x82")
    return content.rstrip().endswith(b"</html>")


@pytest.mark.parametrize("kilobytes", [4, 8, 40, 80, 120, 180, 260])
def test_pairs_on_a_full_disk_keeps_what_is_done_and_the_earlier_output(place, kilobytes):
    run_pairs(place, place, copies=40)
    whole = (place / "out.csv").read_bytes()
    with small_disk(place / "disk", kilobytes) as disk:
        (disk / "out.csv").write_bytes(OLD)
        with pytest.raises((OutputError, LedgerError), match=ADVICE) as caught:
            run_pairs(place, disk, copies=40)
        assert str(disk / "out.csv") in str(caught.value)
        assert (disk / "out.csv").read_bytes() == OLD
        assert not list(disk.glob(".*"))
        started = (disk / "out.csv.progress").exists()
        resize(disk, ENOUGH)
        assert run_pairs(place, disk, copies=40, resume=started).summary.scored == 320
        assert (disk / "out.csv").read_bytes() == whole
        assert os.listdir(disk) == ["out.csv"]


def test_every_file_of_a_pairs_run_is_whole_or_absent_when_the_disk_is_full(place):
    run_pairs(place, place, copies=2, pictures=True)
    whole = {name: (place / name).read_bytes() for name in ("out.csv", "figures/image_captions.png")}
    blamed = set()
    for kilobytes in (140, 180, 260):
        with small_disk(place / f"disk-{kilobytes}", kilobytes) as disk:
            with pytest.raises((OutputError, LedgerError), match=ADVICE) as caught:
                run_pairs(place, disk, copies=2, pictures=True)
            blamed |= {
                name
                for name in ("progress", "partial", "out.csv ", "captions.png", "matrix.png", "report.html")
                if name in str(caught.value)
            }
            finished = [*disk.glob("figures/*"), *disk.glob("report.html")]
            assert all(map(is_whole, finished)), kilobytes
            if (disk / "out.csv").exists():
                assert (disk / "out.csv").read_bytes() == whole["out.csv"]
            resize(disk, ENOUGH)
            run_pairs(place, disk, copies=2, pictures=True, resume=True)
            assert all((disk / name).read_bytes() == content for name, content in whole.items())
            assert is_whole(disk / "report.html")
            assert sorted(os.listdir(disk)) == ["figures", "out.csv", "report.html"]
    assert len(blamed) >= 2  # the disks were full at different files


@pytest.mark.parametrize("name", ["figures", "report.html"])
def test_the_file_on_the_full_disk_is_blamed_and_not_the_output(place, name):
    with small_disk(place / "disk", 4) as disk:
        (place / "in.csv").write_bytes(csv_of([("red.png", "a red square")]))
        paths = {"figures": None, "report": None} | {name.partition(".")[0]: disk / name}
        options = AuditOptions(
            place / "in.csv",
            place / "out.csv",
            images=place,
            columns=(None, None),
            batch_size=4,
            workers=2,
            resume=False,
            **paths,
        )
        with pytest.raises(OutputError, match=r"No space left") as caught:
            run_audit(options, PlainEncoder, lambda *_: None)
        assert str(disk / name) in str(caught.value)
        assert str(place / "out.csv") not in str(caught.value)
        assert not [file for file in disk.rglob("*") if file.is_file()]


def test_a_ledger_that_outgrows_its_cache_on_a_full_disk_is_a_sentence(tmp_path):
    """SQLite then writes between two commits, inside any call."""
    with small_disk(tmp_path / "disk", 1_000) as disk:
        ledger = Ledger(disk / "run.progress")
        rows = (ScoredRow(number, None, None, None, "x" * 500) for number in range(100_000))
        with pytest.raises(LedgerError, match=r"run\.progress cannot be written.*full.*--resume"):
            ledger.add_rows(rows)
        ledger.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_towers):
    """Table, options and folder of a training run that was not disturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        image, text = map(str, tiny_towers)
        options = {"image_tower": image, "text_tower": text, "epochs": 2, "batch_size": 8}
        table = write_pairs(place)
        run_train(table, place / "m", **options)
        yield table, options, place / "m"
    torch.set_num_threads(threads)


def test_train_on_a_full_disk_keeps_its_state_and_resumes_to_the_same_weights(trained, tmp_path):
    table, options, whole = trained
    sizes = {file.name: file.stat().st_size for file in whole.rglob("*") if file.is_file()}
    kilobytes = sum(sizes.values()) // 1024
    failures = []
    for share in (0.02, 0.3, 0.7, 1.2, 2.0):
        with small_disk(tmp_path / f"disk-{share}", max(4, int(share * kilobytes))) as disk:
            folder = disk / "m"
            try:
                run_train(table, folder, **options)
            except OutputError as error:
                failures.append((folder, str(error)))
                assert_folder_is_whole(folder)
                resize(disk, ENOUGH)
                run_train(table, folder, **options, resume=True)
            for name in ("model.safetensors", "config.json"):
                assert (folder / name).read_bytes() == (whole / name).read_bytes(), share
            assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
            assert os.listdir(disk) == ["m"]
    assert len(failures) >= 3
    for folder, sentence in failures:
        assert sentence.startswith(f"{folder} cannot be written (")
        assert "o space left on device" in sentence
        assert "free some disk space and continue with --resume" in sentence


def assert_folder_is_whole(folder):
    """Every file under its final name can be read; only the log may end early."""
    for file in folder.rglob("*.safetensors"):
        assert load_file(file)
    if (folder / "state.pt").exists():
        assert torch.load(folder / "state.pt", weights_only=True)["about"]
    assert not list(folder.rglob("*new"))


def test_a_full_disk_of_the_feature_cache_blames_the_cache(trained, tmp_path, monkeypatch):
    table, options, _ = trained
    with small_disk(tmp_path / "disk", 24) as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        with pytest.raises(OutputError, match=rf"features cannot be stored in {disk}.*free some disk space"):
            run_train(table, tmp_path / "m", **options)
        resize(disk, ENOUGH)
        run_train(table, tmp_path / "m", **options)


NAME = "acme/tiny-clip"


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    repo.mkdir()
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (repo / name).write_text("{}")
    (repo / "config.json").write_text('{"model_type": "clip"}')
    (repo / "model.safetensors").write_bytes(os.urandom(300_000))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with StandInHub({NAME: repo}) as running:
        for key, value in running.environment(tmp_path / "disk").items():
            monkeypatch.setenv(key, value)
        yield running


def test_a_disk_that_fills_up_during_a_download_keeps_the_part_and_blames_the_cache(hub_server, tmp_path):
    with small_disk(tmp_path / "disk", 400) as disk:
        hub_server.faults["model.safetensors"] = Fault(bytes_per_second=500_000)

        def fill(progress):
            if progress.done > 30_000 and not (disk / "other").exists():
                (disk / "other").write_bytes(bytes(300_000))  # another program

        with pytest.raises(CheckpointError, match=r"model cache .*disk is full.*make room"):
            hub.download(NAME, on_progress=fill)
        assert hub.find(NAME) is None
        (part,) = disk.rglob("*.clipdemo")
        assert 0 < part.stat().st_size < 300_000
        with pytest.raises(CheckpointError, match="disk of the model cache has"):
            hub.download(NAME)
        (disk / "other").unlink()
        done = hub.download(NAME)
        assert hub_server.count("model.safetensors", ranged=True)  # resumed
        for name, file in hub_server.files(NAME).items():
            assert (done.folder / name).read_bytes() == file.read_bytes()


def test_killed_downloads_leave_no_half_file_under_its_final_name(tmp_path):
    """A few kills; those of ``pairs`` and ``train`` are in tests/e2e, the long form in ``kills``."""
    with StandInHub({HUB_NAME: hub_repository(tmp_path / "repo")}) as server:
        server.faults["model.safetensors"] = Fault(bytes_per_second=2_000_000)
        tally = kill_repeatedly(download_victim(tmp_path, server), 2, random.Random())
    assert tally.kills == 2
    assert tally.completed


def test_a_read_only_cache_gives_a_sentence_to_root_too(hub_server, tmp_path):
    (tmp_path / "disk").mkdir()
    with read_only(tmp_path / "disk"), pytest.raises(CheckpointError, match=r"Read-only.*HF_HOME"):
        hub.download(NAME)


def test_read_only_folders_are_named_and_nothing_is_left_behind(place, trained):
    table, options, _ = trained
    locked = place / "locked"
    locked.mkdir()
    with read_only(locked):
        attempts = [
            lambda: run_pairs(place, locked, copies=1),
            lambda: run_train(table, locked / "m", **options),
            lambda: run_train(table, locked / "deep" / "m", **options),
        ]
        for attempt in attempts:
            with pytest.raises(ClipdemoError, match=rf"{locked}.*Read-only file system"):
                attempt()
    assert os.listdir(locked) == []


@pytest.mark.parametrize("target", ["out.csv", "link.csv"])
def test_rank_and_matrix_replace_a_file_as_a_whole(tmp_path, target):
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "out.csv").write_bytes(OLD)
        (disk / "link.csv").symlink_to("out.csv")
        with pytest.raises(Exception, match=rf"{target} cannot be written \(No space left"):
            _write(disk / target, bytes(100_000))
        assert (disk / "out.csv").read_bytes() == OLD
        _write(disk / target, b"new\n")
        assert (disk / "out.csv").read_bytes() == b"new\n"
        assert sorted(os.listdir(disk)) == ["link.csv", "out.csv"]
        assert (disk / "link.csv").is_symlink()


def test_a_replacement_meets_no_file_of_the_user_and_follows_no_link(tmp_path):
    (tmp_path / "out.csv.new").write_bytes(OLD)
    (tmp_path / "mine").write_bytes(OLD)
    with replacement(tmp_path / "out.csv") as first, replacement(tmp_path / "out.csv") as second:
        first.write_bytes(b"first\n")
        second.write_bytes(b"second\n")
    assert (tmp_path / "out.csv").read_bytes() == b"first\n"  # each run as a whole; the last one stays
    assert (tmp_path / "out.csv.new").read_bytes() == OLD
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_planted_link_under_the_temporary_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)  # guessed
    (tmp_path / "mine").write_bytes(OLD)
    with replacement(tmp_path / "out.csv") as fresh:
        name = fresh.name
    (tmp_path / name).symlink_to("mine")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out.csv", b"new\n")
    assert (tmp_path / "mine").read_bytes() == OLD


def test_leftovers_of_killed_runs_are_removed_and_files_of_others_stay(place, trained, tmp_path):
    token = "0123456789abcdef"
    (place / f".out.csv.{token}.clipdemo-new").write_bytes(b"half")
    (place / f".other.csv.{token}.clipdemo-new").write_bytes(b"of another run")
    run_pairs(place, place, copies=1)
    assert [file.name for file in place.glob(".*")] == [f".other.csv.{token}.clipdemo-new"]
    table, options, whole = trained
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / f".state.pt.{token}.clipdemo-new").write_bytes(b"half")
    run_train(table, tmp_path / "m", **options)
    assert sorted(os.listdir(tmp_path / "m")) == sorted(os.listdir(whole))


def test_rows_of_a_stopped_run_are_in_the_partial_output(place, monkeypatch):
    """What a full disk leaves for people to look at has no half row."""
    with small_disk(place / "disk", 200) as disk:
        with pytest.raises(LedgerError):
            run_pairs(place, disk, copies=40)
        with (disk / "out.csv.partial").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}
