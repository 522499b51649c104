"""Every error that clipdemo raises. Each message is one sentence that a visitor can act on.

::

    ClipdemoError
    ├── ImageError              bytes that are not a usable image
    │   ├── NotAnImageError
    │   └── ImageTooLargeError
    ├── ArchiveError            a zip that cannot be opened
    ├── FileMissingError        a file that is missing, or may not be read
    ├── TableError              a table of images and captions that cannot be read
    ├── FetchError              a URL that did not return an image
    │   ├── BlockedURLError
    │   ├── RedirectRefusedError
    │   ├── FetchTooLargeError
    │   ├── FetchTimeoutError
    │   └── UnreachableURLError
    ├── CaptionError            a caption, weighted query or prompt template that cannot be read
    ├── SettingError            an unusable value in a CLIPDEMO_* variable or a configuration file
    ├── OutputError             a file that cannot be written
    ├── LedgerError             the progress of a run that cannot be saved or resumed
    ├── TrainingError           a training run that cannot start or continue
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

from clipdemo.escape import escape_controls


class ClipdemoError(Exception):
    """Base of all errors; ``verdict`` is a label of one to three words."""

    verdict = "failed"

    def __str__(self) -> str:
        """The message on one line: control characters in names and texts that it quotes are escaped."""
        return escape_controls(super().__str__())


class ImageError(ClipdemoError):
    """Bytes that are not a usable image."""

    verdict = "not usable"


class NotAnImageError(ImageError):
    """Not an image, an unsupported format, or a broken file."""

    verdict = "not an image"


class ImageTooLargeError(ImageError):
    """More bytes or pixels than the limit."""

    verdict = "too large"


class ArchiveError(ClipdemoError):
    """A zip that is broken, encrypted or beyond the limits."""

    verdict = "not usable"


class FileMissingError(ClipdemoError):
    """A path that does not exist, is not a file, or may not be read."""

    verdict = "no such file"


class TableError(ClipdemoError):
    """A table of images and captions that cannot be read, or lacks a column."""

    verdict = "not usable"


class FetchError(ClipdemoError):
    """A URL that did not return an image."""

    verdict = "not fetched"


class BlockedURLError(FetchError):
    """The URL, or an address that its host name resolves to, is not on the public web."""

    verdict = "blocked"


class RedirectRefusedError(FetchError):
    """Too many redirects, or one that leads to a blocked address."""

    verdict = "redirect refused"


class FetchTooLargeError(FetchError):
    """The response has more bytes than the limit."""

    verdict = "too large"


class FetchTimeoutError(FetchError):
    """The response was not complete in time."""

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
    """The progress of a run that cannot be saved, or belongs to a run with other settings."""


class TrainingError(ClipdemoError):
    """A training run that cannot start or continue: too few pairs, a loss of NaN, too little memory."""


class CheckpointError(ClipdemoError):
    """A checkpoint that cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """An unknown hub name or folder, or a checkpoint that needs an account."""


class UnsupportedCheckpointError(CheckpointError):
    """Not a dual encoder of the CLIP or SigLIP families."""


class UnsafeWeightsError(CheckpointError):
    """Only pickled weights, from a source outside the catalogue."""


class CorruptCheckpointError(CheckpointError):
    """Files that are broken, incomplete or do not fit together."""


class ReleasedCheckpointError(CheckpointError):
    """Its weights were released to free memory; it can be loaded again."""


class NotEnoughMemoryError(CheckpointError):
    """It does not fit into the free memory of the machine or its GPU."""


class LoadAbandonedError(NotEnoughMemoryError):
    """While it waited for memory, every session moved on to another checkpoint, or the process was ending."""


class HubUnreachableError(CheckpointError):
    """The Hugging Face hub does not answer, or stopped answering."""
