"""Finding and downloading checkpoints, with the real hub client against a stand-in hub on loopback."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from stand_in_hub import LISTING, Fault, StandInHub

from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    HubUnreachableError,
    UnsafeWeightsError,
    UnsupportedCheckpointError,
)
from clipdemo.models.hub import listing, transfer
from clipdemo.models.hub import snapshot as hub

NAME, WEIGHTS = "acme/tiny-clip", "model.safetensors"
NEEDED = {
    "config.json": b'{"model_type": "clip"}',
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b"{" + b" " * 5_000 + b"}",
    "tokenizer_config.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
}
NEEDLESS = {
    "README.md": b"# tiny",
    "modeling_evil.py": b"raise SystemExit",
    "tf_model.h5": b"tf" * 50_000,
    "pytorch_model.bin": b"pickle" * 50_000,
    "onnx/model.safetensors": b"nested" * 1_000,
    "onnx/config.json": b"{}",
}
BIG = os.urandom(300_000)


def make_repo(folder: Path, *parts: dict[str, bytes]) -> Path:
    for name, content in {name: content for part in parts for name, content in part.items()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def server(tmp_path, home, monkeypatch):
    """A hub with one good checkpoint, and an empty cache."""
    folder = make_repo(tmp_path / "repo", NEEDED, NEEDLESS, {WEIGHTS: BIG})
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.05)
    with StandInHub({NAME: folder}) as running:
        for key, value in running.environment(home).items():
            monkeypatch.setenv(key, value)
        yield running


@pytest.fixture
def impatient(monkeypatch):
    """Timeouts of seconds instead of a minute, only for tests of silence: a busy machine is slow, too."""
    monkeypatch.setattr(transfer, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.4)
    monkeypatch.setattr(listing, "CONNECT_SECONDS", 1.0)


def test_an_empty_cache_has_no_checkpoint(server):
    assert hub.find(NAME) is None
    assert not server.requests


def test_a_download_is_found_by_branch_and_commit_without_the_network(server, monkeypatch):
    snapshot = hub.download(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(server.requests)
    began = time.perf_counter()
    assert hub.find(NAME) == hub.find(NAME, "main") == hub.find(NAME, snapshot.revision) == snapshot
    assert time.perf_counter() - began < 0.05
    assert snapshot.revision == server.commit(NAME)
    assert hub.find(NAME, "other-branch") is None
    assert len(server.requests) == asked


def test_only_the_needed_files_are_downloaded_completely(server):
    snapshot = hub.download(NAME)
    assert {path.name: path.read_bytes() for path in snapshot.folder.iterdir()} == {**NEEDED, WEIGHTS: BIG}
    assert server.count("pytorch_model.bin") == server.count("modeling_evil.py") == 0


def test_files_of_other_programs_in_the_cache_do_not_count_as_download(server):
    snapshot = hub.download(NAME)
    make_repo(snapshot.folder, NEEDLESS)
    (snapshot.folder / "vocab.txt").symlink_to("gone")
    assert hub.needed_bytes(snapshot) == len(BIG) + sum(map(len, NEEDED.values()))


def test_the_hub_client_reads_our_cache(server, home):
    snapshot = hub.download(NAME)
    cache = home / "hub"
    found = huggingface_hub.snapshot_download(NAME, cache_dir=cache, local_files_only=True)
    assert Path(found) == snapshot.folder
    report = huggingface_hub.scan_cache_dir(cache)
    assert not report.warnings
    assert [repo.repo_id for repo in report.repos] == [NAME]


def test_we_read_the_cache_of_the_hub_client(server, home):
    for name in (*NEEDED, WEIGHTS):
        huggingface_hub.hf_hub_download(
            NAME, name, revision="main", cache_dir=home / "hub", endpoint=server.url, token=False
        )
    assert hub.find(NAME).revision == server.commit(NAME)


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json", "tokenizer.json", WEIGHTS])
def test_a_copy_without_one_needed_file_is_not_complete(server, lost):
    for name in ("vocab.json", "merges.txt"):  # another form of a tokenizer
        (server.repos[NAME] / name).unlink()
    snapshot = hub.download(NAME)
    (snapshot.folder / lost).unlink()
    assert hub.find(NAME) is None
    assert hub.download(NAME) == snapshot == hub.find(NAME)


def test_a_link_to_a_missing_blob_does_not_count(server):
    snapshot = hub.download(NAME)
    (snapshot.folder / WEIGHTS).resolve().unlink()
    assert hub.find(NAME) is None


def test_sharded_weights_are_downloaded_with_every_shard(server):
    folder = server.repos[NAME]
    (folder / WEIGHTS).unlink()
    shards = {f"model-0000{n}-of-00002.safetensors": os.urandom(1000) for n in (1, 2)}
    index = {"weight_map": {f"weight{n}": shard for n, shard in enumerate(shards)}}
    make_repo(folder, shards, {"model.safetensors.index.json": json.dumps(index).encode()})
    snapshot = hub.download(NAME)
    assert set(shards) <= {path.name for path in snapshot.folder.iterdir()}
    assert hub.find(NAME) == snapshot
    (snapshot.folder / "model-00002-of-00002.safetensors").unlink()
    assert hub.find(NAME) is None


def test_progress_only_grows_and_ends_at_the_total(server):
    server.faults[WEIGHTS] = Fault(bytes_per_second=600_000)
    seen = []
    hub.download(NAME, on_progress=seen.append)
    total = len(BIG) + sum(len(content) for content in NEEDED.values())
    done = [each.done for each in seen]
    assert {each.total for each in seen} == {total}
    assert done == sorted(set(done))
    assert done[0] == 0
    assert done[-1] == total
    assert len(done) > 4


def test_a_visitor_who_leaves_ends_the_download_and_the_partial_file_is_kept(server):
    class LeftError(BaseException):
        pass

    def leave(progress):
        if progress.done > 100_000:
            raise LeftError

    server.faults[WEIGHTS] = Fault(bytes_per_second=1_000_000)
    with pytest.raises(LeftError):
        hub.download(NAME, on_progress=leave)
    assert hub.find(NAME) is None
    hub.download(NAME)
    assert server.count(WEIGHTS, ranged=True) == 1


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_resumed_where_it_broke(server, reset):
    server.faults[WEIGHTS] = Fault(drop_after=100_000, reset=reset, times=2)
    snapshot = hub.download(NAME)
    assert (snapshot.folder / WEIGHTS).read_bytes() == BIG
    starts = [each.start for each in server.requests if (each.method, each.file) == ("GET", WEIGHTS)]
    assert len(starts) == 3
    if not reset:  # a reset may also lose bytes in transit
        assert starts == [None, 100_000, 200_000]


def test_connections_that_always_break_give_a_sentence(server, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_CONNECTIONS", 4)
    server.faults[WEIGHTS] = Fault(drop_after=1_000)
    with pytest.raises(
        HubUnreachableError, match=r"stopped answering .connection broken.; the partial download is kept"
    ):
        hub.download(NAME)
    assert server.count(WEIGHTS) == 4
    server.faults.clear()
    hub.download(NAME)
    assert 4_000 in [each.start for each in server.requests]


def test_a_stall_ends_in_bounded_time_and_a_retry_resumes(server, impatient):
    server.faults[WEIGHTS] = Fault(stall_after=0)
    server.faults["merges.txt"] = Fault(stall_after=5, times=1)  # a new connection works
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match=r"stopped answering .no answer in time"):
        hub.download(NAME)
    assert time.monotonic() - began < 6
    server.faults.clear()
    assert hub.download(NAME) == hub.find(NAME)


def test_a_download_that_another_session_holds_up_ends_in_bounded_time(server, impatient):
    """The session that waits gets the same message as the one that stalls."""
    server.faults[WEIGHTS] = Fault(stall_after=0)
    said = []

    def fetch():
        try:
            hub.download(NAME)
        except HubUnreachableError as error:
            said.append(str(error))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(said) == 2
    assert all("stopped answering" in each for each in said)


def test_a_silent_listing_ends_in_bounded_time(server, impatient):
    server.faults[LISTING] = Fault(stall_after=0)
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match=r"does not answer .no answer in time"):
        hub.download(NAME)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_corrupt_file_is_refused_and_removed_so_that_a_retry_works(server, home, file):
    server.faults[file] = Fault(corrupt=True, times=1)
    with pytest.raises(CorruptCheckpointError, match=f"{file} of {NAME} arrived broken .* try again"):
        hub.download(NAME)
    assert hub.find(NAME) is None
    assert not list(home.rglob("*.clipdemo"))
    snapshot = hub.download(NAME)
    assert (snapshot.folder / WEIGHTS).read_bytes() == BIG


def test_a_copy_that_broke_on_disk_is_repaired(server):
    weights = hub.download(NAME).folder / WEIGHTS
    weights.resolve().write_bytes(BIG[:-1] + b"?")
    assert (hub.download(NAME).folder / WEIGHTS).read_bytes() == BIG
    assert server.count("tokenizer.json") == 1


def test_a_temporary_error_of_the_hub_is_retried(server):
    server.faults[WEIGHTS] = Fault(status=503, times=2)
    assert (hub.download(NAME).folder / WEIGHTS).read_bytes() == BIG


def test_a_persistent_error_of_the_hub_is_reported(server):
    server.faults[LISTING] = Fault(status=500)
    with pytest.raises(HubUnreachableError, match=r"does not answer .error 500"):
        hub.download(NAME)


@pytest.mark.parametrize(
    "name", ["acme/nothing", "acme/tiny--clip", "a/b/c", "../etc", "acme/", "", "acme/x.git"]
)
def test_an_unknown_name_is_refused(server, name):
    with pytest.raises(CheckpointNotFoundError, match="owner/name"):
        hub.download(name)
    assert hub.find(name) is None


@pytest.mark.parametrize("revision", ["v9", "../../main", "a..b"])
def test_an_unknown_revision_is_refused(server, revision):
    with pytest.raises(CheckpointNotFoundError, match="revision"):
        hub.download(NAME, revision=revision)
    assert hub.find(NAME, revision) is None


def test_a_gated_checkpoint_asks_for_the_licence_and_a_token(server):
    server.gated.add(NAME)
    with pytest.raises(CheckpointNotFoundError, match=r"accept its licence .* HF_TOKEN"):
        hub.download(NAME)


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "spelling")])
def test_a_refused_listing_says_what_to_do(server, status, words):
    server.faults[LISTING] = Fault(status=status)
    with pytest.raises(CheckpointNotFoundError, match=words):
        hub.download(NAME)


def test_pickled_weights_are_refused_unless_allowed(server):
    (server.repos[NAME] / WEIGHTS).unlink()
    with pytest.raises(UnsafeWeightsError, match=f"{NAME} has only pickled weights"):
        hub.download(NAME)
    assert server.count("pytorch_model.bin") == server.count("config.json") == 0
    snapshot = hub.download(NAME, allow_pickle=True)
    assert hub.find(NAME) == snapshot
    assert (snapshot.folder / "pytorch_model.bin").read_bytes() == NEEDLESS["pytorch_model.bin"]


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json"])
def test_a_repository_without_a_dual_encoder_is_refused_before_the_download(server, lost):
    (server.repos[NAME] / lost).unlink()
    with pytest.raises(UnsupportedCheckpointError, match=NAME):
        hub.download(NAME)
    assert server.count(WEIGHTS) == 0


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (b'{"model_type": "bert"}', UnsupportedCheckpointError, "of the type 'bert'"),
        (b'{"model_type": ["clip"]}', UnsupportedCheckpointError, "dual encoders"),
        (b"[]", UnsupportedCheckpointError, "choose one of those"),
        (b"{", CorruptCheckpointError, "choose another checkpoint"),
    ],
)
def test_an_unsupported_configuration_is_refused_before_the_weights_are_downloaded(
    server, config, error, words
):
    (server.repos[NAME] / "config.json").write_bytes(config)
    with pytest.raises(error, match=words):
        hub.download(NAME)
    assert server.count("config.json") == 1
    assert server.count(WEIGHTS) == server.count("tokenizer.json") == 0
    assert hub.find(NAME) is None


def test_a_name_has_one_slash_and_is_safe_in_a_path():
    assert hub.is_name("acme/tiny-clip")
    for wrong in (
        "tiny-clip",
        "a/b/c",
        "../etc",
        "a/..",
        "/etc",
        "~/x",
        "a b/c",
        "a/b?x",
        "ä/b",
        "a" * 99 + "/b",
    ):
        assert not hub.is_name(wrong)


def test_offline_mode_fails_at_once(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="offline mode is on"):
        hub.download(NAME)
    assert not server.requests


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("http://hub.invalid", "its name cannot be resolved"),
        ("nonsense", "does not answer"),
    ],
)
def test_an_unreachable_hub_fails_fast_with_a_sentence(server, monkeypatch, endpoint, reason):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match=reason):
        hub.download(NAME)
    assert time.monotonic() - began < 4


def test_a_full_disk_is_reported_with_numbers_before_the_download(server, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(CheckpointError, match=f"{NAME} needs 0.3 MB .* has 0.1 MB free"):
        hub.download(NAME)
    assert server.count(WEIGHTS) == 0


def test_a_read_only_cache_gives_a_sentence(server, home):
    home.write_text("a file where the cache should be")
    with pytest.raises(CheckpointError, match=f"{NAME} cannot be saved in the model cache"):
        hub.download(NAME)


def test_a_disk_that_fills_up_during_the_download_gives_a_sentence(server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer.os, "replace", full)
    with pytest.raises(CheckpointError, match=r"the disk is full.*make room"):
        hub.download(NAME)
    assert hub.find(NAME) is None


def test_two_sessions_download_the_same_checkpoint_once(server):
    server.faults[WEIGHTS] = Fault(bytes_per_second=400_000)
    seen: list[list[hub.Progress]] = [[], []]
    threads = [
        threading.Thread(target=hub.download, args=[NAME], kwargs={"on_progress": s.append}) for s in seen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert server.count(WEIGHTS) == 1
    assert all(each[-1].done == each[-1].total and len(each) > 2 for each in seen)


def test_another_process_follows_the_environment_and_prints_nothing(server, home):
    program = (
        "import sys, clipdemo.models.hub.snapshot as hub\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        f"assert hub.find({NAME!r}) is None\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        f"hub.download({NAME!r})\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert hub.find(NAME) is not None
