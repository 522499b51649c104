"""Runs the real command in separate processes, which can be stopped and killed like any other.

Importing torch takes seconds, so one process (``python commands.py``) imports it once and forks: a child runs
``clipdemo.cli.app.main`` with its own arguments, folder and streams, and then exits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Return variables for reproducible runs: offline, fixed terminal width, one thread."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        "CLIPDEMO_URL_SECONDS": "1",
    }


@dataclass(frozen=True)
class Ended:
    """The result of a command; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str


class Running:
    """A command that may still be running."""

    def __init__(self, pid: int, streams: Path, server: Commands) -> None:
        self.pid, self._streams, self._server = pid, streams, server
        self._code: int | None = None

    def ended(self) -> bool:
        """Whether the command has exited or was killed."""
        if self._code is None:
            self._code = self._server.ask({"poll": self.pid})["code"]
        return self._code is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the command has ended; its PID is not reused before ``wait``."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for the command to end."""
        if self._code is None:
            self._code = self._server.ask({"wait": self.pid})["code"]
        out, err = (self._streams.with_suffix(end).read_text("utf-8") for end in (".out", ".err"))
        return Ended(self._code, out, err)


class Commands:
    """The process that forks the commands."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        command = [sys.executable, __file__]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def start(self, *arguments: object, cwd: Path) -> Running:
        """Start ``clipdemo`` with these arguments."""
        self._count += 1
        streams = self._folder / f"run-{self._count}"
        pid = self.ask({"argv": list(map(str, arguments)), "cwd": str(cwd), "streams": str(streams)})["pid"]
        return Running(pid, streams, self)

    def run(self, *arguments: object, cwd: Path) -> Ended:
        """Run ``clipdemo`` with these arguments and wait for it."""
        return self.start(*arguments, cwd=cwd).wait()

    def ask(self, question: dict[str, object]) -> dict[str, int | None]:
        """Send one line, return the answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """Kill the forking process; a regular exit of torch takes seconds."""
        self._server.kill()
        self._server.communicate()


@contextmanager
def forking(folder: Path) -> Iterator[Commands]:
    """Yield commands that start quickly."""
    commands = Commands(folder)
    try:
        yield commands
    finally:
        commands.close()


def fresh(arguments: Sequence[object], cwd: Path, **more: str) -> Ended:
    """Run ``python -m clipdemo`` in a new interpreter."""
    command = [sys.executable, "-m", "clipdemo", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment() | more, capture_output=True, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def _become(question: dict[str, str], arguments: list[str]) -> NoReturn:
    """Run the command in this forked process; never returns."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, end in ((1, ".out"), (2, ".err")):
        with Path(question["streams"] + end).open("wb") as stream:
            os.dup2(stream.fileno(), number)
    os.chdir(question["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["clipdemo", *arguments]
    from clipdemo.cli.app import main

    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a regular exit of torch takes seconds


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for pytest
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    from clipdemo import samples

    torch.set_num_threads(1)
    samples.sample_items()
    assert CLIPModel and CLIPImageProcessorPil and CLIPTokenizer  # noqa: PT018 - lazy names
    codes: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "argv" in question:
            for end in (".out", ".err"):
                Path(question["streams"] + end).touch()  # the child may be killed before it opens them
            pid = os.fork()
            if pid == 0:
                _become(question, question["argv"])
            answer = {"pid": pid}
        else:
            pid = question.get("wait") or question["poll"]
            if pid not in codes:
                done, status = os.waitpid(pid, 0 if "wait" in question else os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            answer = {"code": codes.get(pid)}
        print(json.dumps(answer), flush=True)  # noqa: T201 - read by Commands.ask


def wait_until(holds, running: Running, seconds: float = 60.0) -> bool:
    """Whether ``holds()`` became true before the command ended."""
    deadline = time.monotonic() + seconds
    while not holds():
        if running.ended():
            return False
        assert time.monotonic() < deadline, "the command made no progress and did not end"
        time.sleep(0.002)
    return True


if __name__ == "__main__":
    _serve()
