"""The result of ``clipdemo pairs`` as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from clipdemo.audit.footprint import Stage, memory_text, stage_text
from clipdemo.audit.judge import Summary
from clipdemo.escape import escape_controls
from clipdemo.types import Checkpoint


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        summary: of the table.
        checkpoint: that scored it.
        device: of the checkpoint.
        stages: of this run; a resumed run counts only its own.
        seconds: elapsed in this run.
        peak_bytes: of the process; None if unknown.
        peak_gpu_bytes: None without a GPU.
        notes: sentences on how the table was read.
        files: paths written.
    """

    summary: Summary
    checkpoint: Checkpoint
    device: str
    stages: tuple[Stage, ...]
    seconds: float
    peak_bytes: int | None
    peak_gpu_bytes: int | None
    notes: tuple[str, ...]
    files: tuple[str, ...]

    def as_json(self) -> str:
        """Return one JSON object with every figure."""
        return json.dumps(
            {
                "summary": asdict(self.summary),
                "checkpoint": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "device": self.device,
                "seconds": round(self.seconds, 3),
                "stages": [_stage(stage) for stage in self.stages],
                "peak_memory_bytes": self.peak_bytes,
                "peak_gpu_memory_bytes": self.peak_gpu_bytes,
                "notes": list(self.notes),
                "files": list(self.files),
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """Return the figures as lines of text."""
        summary = self.summary
        flags = ", ".join(f"{count} {flag}" for flag, count in summary.flags.items())
        errors = ", ".join(f"{count:,} {error}" for error, count in summary.errors.items())
        lines = [
            *(f"note: {note}" for note in self.notes),
            f"{summary.scored:,} of {summary.rows:,} rows scored, {summary.failed:,} failed; "
            f"{summary.images:,} distinct images, {summary.captions:,} distinct captions",
            *([f"errors: {errors}"] if errors else []),
            f"flags: {flags}; {summary.truncated:,} captions cut off",
            f"image to text: {summary.image_to_text.as_text()}",
            f"text to image: {summary.text_to_image.as_text()}",
            "a query is a hit when any of its right answers is among the first k; ranks are exact, among all "
            "images and captions that were scored",
            f"checkpoint {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}, on {self.device}",
            f"{self.seconds:.1f} s; " + "; ".join(stage_text(stage) for stage in self.stages),
            memory_text(self.peak_bytes, self.peak_gpu_bytes),
            "written: " + ", ".join(self.files),
        ]
        return "\n".join(map(escape_controls, lines))


def _stage(stage: Stage) -> dict[str, object]:
    return {
        "name": stage.name,
        "seconds": round(stage.seconds, 3),
        "items": stage.items,
        "per_second": round(stage.rate, 2),
    }
