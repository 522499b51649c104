"""No command of the terminal, and no forged line, comes out of names and texts of strangers."""

import json
import logging
import os
import pty
import socket
import subprocess
import sys
import threading

import pytest
from commands import environment, forking
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


@pytest.fixture(scope="module")
def clipdemo(tmp_path_factory, colour_clip):
    """Runs the real command with a small checkpoint; its output is captured as it is."""
    with forking(tmp_path_factory.mktemp("streams")) as commands:

        def run(*arguments, cwd):
            if arguments[0] in {"rank", "matrix", "pairs"} and "--checkpoint" not in arguments:
                arguments = (*arguments, "--checkpoint", colour_clip, "--device", "cpu")
            return commands.run(*arguments, cwd=cwd)

        yield run


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
def test_a_command_shows_names_and_captions_escaped(clipdemo, place, command, form):
    if command == "pairs":
        arguments = ["pairs", f"{EVIL}.jsonl", "--output", f"out {EVIL}.csv", *form]
    else:
        arguments = [command, ".", "--caption", f"red {EVIL}", *form]
    ended = clipdemo(*arguments, cwd=place)
    assert ended.code == 1, ended  # one image is broken, or missing
    assert is_clean(ended.err)
    if command == "matrix" and not form:
        data = EVIL.replace("\r", "\n")  # reading the captured file as text changes line ends
        assert f'"{data}.png"' in ended.out  # a program that reads the table gets the data
        return
    assert is_clean(ended.out), ascii(ended.out)
    assert "\\u001b]0;pwned" in ended.out
    assert ("\\r" if form else "\\u000d") in ended.out
    if command == "pairs":
        assert f'"{EVIL}.png"' in (place / f"out {EVIL}.csv").read_bytes().decode()
    elif form:
        answer = json.loads(ended.out)
        hits = answer["queries"][0]["hits"] if command == "rank" else answer["images"]
        assert hits[0]["name"] == f"{EVIL}.png"


def test_a_table_on_a_terminal_is_escaped(place, colour_clip):
    code, shown = in_terminal(
        "matrix", ".", "--caption", f"red {EVIL}", "--checkpoint", colour_clip, cwd=place
    )
    assert code == 1, shown
    assert "\\u001b]0;pwned" in shown
    # The progress bar moves the cursor; what it shows is fixed.
    assert is_clean(shown.replace("\x1b[", "").replace("\r", "")), ascii(shown)


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
def test_errors_are_escaped(clipdemo, place, arguments):
    ended = clipdemo(*arguments, cwd=place)
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


def test_checkpoints_are_listed_without_escapes(clipdemo, tmp_path):
    ended = clipdemo("checkpoints", cwd=tmp_path)
    assert ended.code == 0
    assert is_clean(ended.out)


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
    with pytest.raises(OSError, match=r"not a regular file|No such device"):
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
    with pytest.raises(CorruptCheckpointError, match=r"'config.json' in checkpoint is not a regular file"):
        load_encoder(tmp_path / "checkpoint")


def test_captions_come_from_a_pipe_and_have_an_end(clipdemo, tmp_path):
    (tmp_path / "red.png").write_bytes(SQUARES["red.png"])
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"red\nblue\n"], daemon=True)
    writer.start()
    ended = clipdemo("rank", "red.png", "--captions", "pipe", cwd=tmp_path)
    assert (ended.code, ended.out.splitlines()[0]) == (0, "red"), ended
    ended = clipdemo("rank", "red.png", "--captions", "/dev/zero", cwd=tmp_path)
    assert ended.code == 2
    assert "has more than 20,000,000 bytes" in ended.err
