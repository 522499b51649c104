"""Every error clipdemo raises, each with one sentence a visitor can act on.

::

    ClipdemoError
    ├── ImageError              bytes that are not a usable image
    │   ├── NotAnImageError
    │   └── ImageTooLargeError
    ├── ArchiveError            a zip that cannot be opened
    ├── FileMissingError        a file that is not there, or may not be read
    ├── TableError              a table of images and captions that cannot be read
    ├── FetchError              a URL that gave no image
    │   ├── BlockedURLError
    │   ├── RedirectRefusedError
    │   ├── FetchTooLargeError
    │   ├── FetchTimeoutError
    │   └── UnreachableURLError
    ├── CaptionError            a caption, weighted query or prompt template that cannot be read
    ├── SettingError            a CLIPDEMO_* variable or a configuration file with an unusable value
    ├── OutputError             a file that cannot be written
    ├── LedgerError             the progress of a run that cannot be kept or resumed
    ├── TrainingError           a training run that cannot go on
    └── CheckpointError         a checkpoint that cannot be used
        ├── CheckpointNotFoundError
        ├── UnsupportedCheckpointError
        ├── UnsafeWeightsError
        ├── CorruptCheckpointError
        ├── ReleasedCheckpointError
        ├── NotEnoughMemoryError
        │   └── LoadAbandonedError
        └── HubUnreachableError
"""

from __future__ import annotations


class ClipdemoError(Exception):
    """Base of all errors; ``str(error)`` is the sentence to show, ``verdict`` its two-word label."""

    verdict = "failed"


class ImageError(ClipdemoError):
    """Bytes that are not a usable image."""

    verdict = "not usable"


class NotAnImageError(ImageError):
    """The bytes are no image in a format we read, or a broken one."""

    verdict = "not an image"


class ImageTooLargeError(ImageError):
    """More bytes or pixels than the limit."""

    verdict = "too large"


class ArchiveError(ClipdemoError):
    """A zip that is broken, encrypted or beyond the limits."""

    verdict = "not usable"


class FileMissingError(ClipdemoError):
    """A file that is not there, is no file, or lies where it may not be read."""

    verdict = "no such file"


class TableError(ClipdemoError):
    """A table of images and captions that cannot be read, or lacks a column."""

    verdict = "not usable"


class FetchError(ClipdemoError):
    """A URL that gave no image."""

    verdict = "not fetched"


class BlockedURLError(FetchError):
    """The URL, or an address its name resolves to, is one we never connect to."""

    verdict = "blocked"


class RedirectRefusedError(FetchError):
    """Too many redirects, or one that leads to a blocked address."""

    verdict = "redirect refused"


class FetchTooLargeError(FetchError):
    """The answer holds more bytes than the limit."""

    verdict = "too large"


class FetchTimeoutError(FetchError):
    """The answer did not come in time."""

    verdict = "timed out"


class UnreachableURLError(FetchError):
    """No connection, an unknown host name or an HTTP error status."""

    verdict = "not reachable"


class CaptionError(ClipdemoError):
    """A caption, weighted query or prompt template that cannot be read."""


class SettingError(ClipdemoError):
    """A ``CLIPDEMO_*`` environment variable, or a key of a configuration file, with an unusable value."""


class OutputError(ClipdemoError):
    """A file that cannot be written."""


class LedgerError(ClipdemoError):
    """The progress of a run that cannot be kept, or does not fit the run that wants to resume."""


class TrainingError(ClipdemoError):
    """A training run that cannot begin or go on: too few pairs, no number as loss, too little memory."""


class CheckpointError(ClipdemoError):
    """A checkpoint that cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """No such hub name or folder, or one that needs an account."""


class UnsupportedCheckpointError(CheckpointError):
    """Not a dual encoder of the CLIP or SigLIP families."""


class UnsafeWeightsError(CheckpointError):
    """Only pickled weights, from a source that is not in the catalogue."""


class CorruptCheckpointError(CheckpointError):
    """Files that are broken, incomplete or do not fit together."""


class ReleasedCheckpointError(CheckpointError):
    """Its weights left the memory to make room; it can be loaded again."""


class NotEnoughMemoryError(CheckpointError):
    """The machine's memory, or its GPU's, does not hold it beside what is there."""


class LoadAbandonedError(NotEnoughMemoryError):
    """While it waited, everybody it was loaded for turned to something else, or the process began to end."""


class HubUnreachableError(CheckpointError):
    """The Hugging Face hub does not answer, or stopped answering."""
