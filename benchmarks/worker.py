"""Runs a contender in its own process: ``Worker`` starts it and asks; run as a module, this file answers.

Question and answer are one line of JSON each. An idle worker uses no processor time, so contenders can be
timed in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_PREFIX = "answer: "  # libraries also print to standard output


class WorkerError(Exception):
    """A contender that cannot run on this machine, with its own message."""


class Worker:
    """Starts to load a contender; call ``wait`` before the first question.

    Args:
        name: ``OWN``, ``EMBEDDED`` or a key of ``ALTERNATIVES`` in ``benchmarks.steps``.
        checkpoint: folder of the common checkpoint.
        extra: another folder from which only this process imports, or None.
    """

    def __init__(self, name: str, checkpoint: Path, extra: Path | None = None) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.worker", name, str(checkpoint), str(extra or "")]
        # Some machines set it, which slows NumPy, and with it the peak that towers are compared with.
        inherited = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        settings = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**inherited, **settings},
        )

    def wait(self) -> None:
        """Wait until the contender is loaded.

        Raises:
            WorkerError: the contender cannot run on this machine.
        """
        self._answer()

    def ask(self, step: str, **given: Any) -> dict[str, Any]:
        """Run a step of ``benchmarks.steps``; returns its figures and the resident "megabytes" after it.

        Raises:
            WorkerError: the step failed.
        """
        assert self._process.stdin  # noqa: S101 - a pipe
        print(json.dumps({"step": step, **given}), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - a pipe
        for line in self._process.stdout:
            if line.startswith(_PREFIX):
                answer: dict[str, Any] = json.loads(line.removeprefix(_PREFIX))
                if "error" in answer:
                    raise WorkerError(answer["error"])
                return answer
        raise WorkerError(f"{self.name} ended")


def main(name: str, checkpoint: str, extra: str) -> None:
    """Load a contender and answer questions until standard input closes."""
    if extra:
        sys.path.append(extra)
    from benchmarks import steps
    from benchmarks.machine import resident_megabytes

    def answer(figures: dict[str, Any]) -> None:
        print(_PREFIX + json.dumps({**figures, "megabytes": resident_megabytes()}), flush=True)

    try:
        contender = steps.load(name, Path(checkpoint))
    except (ImportError, OSError, RuntimeError, ValueError, TypeError) as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({})
    for line in sys.stdin:
        given = json.loads(line)
        step = given.pop("step")
        try:
            answer(getattr(steps, step)(contender, **given))
        except Exception as error:  # noqa: BLE001 - third-party boundary: the other contenders go on
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:4])
