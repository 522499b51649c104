"""No command of the terminal, and no forged line, comes out of names and texts of strangers."""

import json
import logging
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, fresh
from plain_encoder import SQUARES

from clipdemo import errors
from clipdemo.cli.config import read_config
from clipdemo.errors import CorruptCheckpointError, SettingError, TableError
from clipdemo.escape import escape_controls, escape_logs
from clipdemo.images.locate import read_arguments
from clipdemo.limits import Limits
from clipdemo.models.load import load_encoder
from clipdemo.regular import open_regular

EVIL = "\x1b]0;pwned\x07\x9b31m\r\u202eforged\nerror: forged"
RAW = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\nerror: forged")


def is_clean(text):
    return not [letter for letter in RAW if letter in text.replace("\r\n", "\n")]


@pytest.fixture
def place(tmp_path):
    """Images and a table with evil names."""
    (tmp_path / f"{EVIL}.png").write_bytes(SQUARES["red.png"])
    (tmp_path / f"broken {EVIL}.png").write_bytes(b"no image")
    (tmp_path / f"copy {EVIL}.png").write_bytes(SQUARES["red.png"])
    rows = [
        {"image": f"{EVIL}.png", "caption": f"red {EVIL}"},
        {"image": f"gone {EVIL}.png", "caption": EVIL},
    ]
    (tmp_path / f"{EVIL}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return tmp_path


def in_terminal(*arguments, cwd):
    """Exit code of the command in a terminal of its own, and everything that it shows."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "clipdemo", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, env=environment() | {"TERM": "dumb"}
    )
    os.close(slave)
    shown = bytearray()
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # Linux ends a terminal that nobody has open with EIO
            break
        if not part:
            break
        shown += part
    os.close(master)
    return process.wait(timeout=60), shown.decode("utf-8", "replace")


# The commands


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", ["rank", "matrix", "pairs"])
def test_a_command_shows_names_and_captions_escaped(place, command, form):
    if command == "pairs":
        arguments = ["pairs", f"{EVIL}.jsonl", "--output", f"out {EVIL}.csv", *form]
    else:
        arguments = [command, ".", "--caption", f"red {EVIL}", *form]
    code, shown = in_terminal(*arguments, cwd=place)
    assert code == 1, shown  # one image is broken, or missing
    # The progress bar of a terminal moves the cursor; what it shows is fixed.
    assert "pwned\x07" not in shown
    assert is_clean(shown.replace("\x1b[", "").replace("\r", "")), ascii(shown)
    assert "u001b]0;pwned" in shown
    if command == "pairs":
        assert "\x1b]0;pwned" in (place / f"out {EVIL}.csv").read_text("utf-8")  # a file keeps its data


@pytest.mark.parametrize("command", ["rank", "matrix"])
def test_json_keeps_the_data(place, command):
    ended = fresh([command, ".", "--caption", f"red {EVIL}", "--json"], cwd=place)
    assert is_clean(ended.out)
    assert is_clean(ended.err)
    answer = json.loads(ended.out)
    names = [hit["name"] for hit in answer["queries"][0]["hits"]] if command == "rank" else answer["images"]
    assert EVIL in json.dumps(names, ensure_ascii=False).encode().decode("unicode_escape") or any(
        EVIL in (name if isinstance(name, str) else name["name"]) for name in names
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["pairs", f"{EVIL}.csv"],
        ["pairs", f"--{EVIL}"],
        ["pairs", "t.csv", f"{EVIL}"],
        ["pairs", "--config", f"{EVIL}.yaml"],
        ["rank", f"{EVIL}.gif", "--caption", "x"],
        ["rank", "a", "--captions", f"{EVIL}.txt"],
        ["rank", "a", "--caption", "x", "--checkpoint", f"./{EVIL}"],
        ["rank", f"http://[{EVIL}", "--caption", "x"],
        ["evaluate", f"{EVIL}.jsonl", "--checkpoint", EVIL],
        [EVIL],
    ],
    ids=lambda arguments: " ".join(arguments).split(EVIL)[0] or "command",
)
def test_errors_are_escaped(place, arguments):
    ended = fresh(arguments, cwd=place)
    assert ended.code in {1, 2}
    assert ended.out == ""
    assert not [letter for letter in RAW[:-1] if letter in ended.err], ascii(ended.err)
    assert "Traceback" not in ended.err


def test_a_traceback_is_escaped():
    code = (
        "import sys; from clipdemo.escape import EscapingStream; sys.stderr = EscapingStream(sys.stderr)\n"
        f"raise ValueError({EVIL!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pwned" in done.stderr
    assert not [letter for letter in RAW[:-1] if letter in done.stderr]


def test_checkpoints_are_listed_without_escapes(tmp_path):
    code, shown = in_terminal("checkpoints", cwd=tmp_path)
    assert code == 0
    assert is_clean(shown)


# Errors and logs


@pytest.mark.parametrize("kind", [thing for thing in vars(errors).values() if isinstance(thing, type)])
def test_every_error_is_one_clean_line(kind):
    assert str(kind(f"{EVIL} cannot be read")) == f"{escape_controls(EVIL)} cannot be read"
    assert is_clean(str(kind(EVIL)))


def test_what_is_printable_stays():
    for text in ("ein „Hund“, 犬 🐕 كلب", "family 👨‍👩‍👧", "a\u200fb", "~\xa0"):
        assert escape_controls(text) == text
    assert escape_controls("a\tb\nc", keep="\n") == "a\\u0009b\nc"
    assert json.loads(escape_controls(json.dumps(EVIL, ensure_ascii=False))) == EVIL


def test_logs_are_escaped_with_their_tracebacks(monkeypatch, capsys):
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    escape_logs()
    escape_logs()  # the app runs its script again and again
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.Logger("third party")
    logger.addHandler(handler)
    logger.warning("the tensor %s of %r", EVIL, "x")
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("100 %% %s", EVIL)
    shown = capsys.readouterr().out
    assert shown.count("pwned") == 3
    assert "100 % " in shown
    assert not [letter for letter in RAW[:-1] if letter in shown]


# Files that are none


@pytest.fixture(params=["pipe", "zero", "folder", "socket"])
def special(request, tmp_path):
    """A path that is no regular file; reading some of them would never end."""
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "zero":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    return path


def test_only_regular_files_are_opened(special, tmp_path):
    with pytest.raises(OSError, match="not a regular file|No such device"):
        open_regular(special)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"x"


def test_a_special_file_is_refused_wherever_one_can_be_named(special, tmp_path):
    from clipdemo.audit.run import AuditOptions, run_audit

    with pytest.raises(SettingError, match="cannot be read"):
        read_config(special)
    options = AuditOptions(
        special, tmp_path / "o.csv", None, None, tmp_path, (None, None), batch_size=2, workers=1, resume=False
    )
    with pytest.raises(TableError, match="the file cannot be read"):
        run_audit(options, lambda: pytest.fail("loaded a checkpoint"), lambda *_: None)
    if not special.is_dir():
        (source,) = read_arguments([str(special)], Limits())
        with pytest.raises(errors.FileMissingError, match="cannot be read"):
            source.read()


@pytest.mark.parametrize("place", ["config.json", "image/config.json"])
def test_a_checkpoint_with_a_pipe_among_its_files_is_refused(tmp_path, place):
    file = tmp_path / "checkpoint" / place
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    with pytest.raises(CorruptCheckpointError, match="'config.json' in checkpoint is not a regular file"):
        load_encoder(tmp_path / "checkpoint")


def test_captions_come_from_a_pipe_that_ends(tmp_path):
    (tmp_path / "red.png").write_bytes(SQUARES["red.png"])
    command = [sys.executable, "-m", "clipdemo", "rank", "red.png", "--captions", "/dev/stdin"]
    options = {"cwd": tmp_path, "env": environment(), "capture_output": True, "check": False}
    done = subprocess.run(command, input=b"red\nblue\n", **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"red\n")
    command[-1] = "/dev/zero"
    done = subprocess.run(command, timeout=100, **options)
    assert done.returncode == 2
    assert b"has more than 20,000,000 bytes" in done.stderr


def test_a_table_comes_from_redirected_input_and_a_pipe_is_refused(tmp_path):
    (tmp_path / "red.png").write_bytes(SQUARES["red.png"])
    table = tmp_path / "t.csv"
    table.write_text("image,caption\nred.png,red\n")
    command = [sys.executable, "-m", "clipdemo", "pairs", "/dev/stdin", "--images", "."]
    options = {"cwd": tmp_path, "env": environment(), "capture_output": True, "check": False}
    with Path(table).open("rb") as file:
        assert subprocess.run(command, stdin=file, **options).returncode == 0
    done = subprocess.run(command, input=table.read_bytes(), **options)
    assert done.returncode == 2
    assert b"it is not a regular file" in done.stderr
