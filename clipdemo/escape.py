"""Control characters become visible: text of strangers neither commands a terminal nor forges a line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TextIO

# C0 and C1 controls (escape sequences begin with them), line separators, overrides of the writing direction,
# and halves of surrogate pairs, which no terminal can print. Marks of the direction belong to ordinary text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Write each control character as ``\u001b``; JSON stays JSON, with the same data.

    Args:
        text: from anyone.
        keep: control characters that stay as they are.
    """
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}",
        text,
    )


class EscapingStream:
    """A text stream that passes line ends and tabs on, and other control characters escaped.

    Args:
        stream: such as ``sys.stdout``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the escaped text."""
        self._stream.write(escape_controls(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the escaped lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def escape_logs() -> None:
    """Escape what this process logs from now on, tracebacks included, whichever library logs it."""
    create = logging.getLogRecordFactory()
    if getattr(create, "escapes", False):
        return

    def create_escaped(*args: object, **kwargs: object) -> logging.LogRecord:
        record = create(*args, **kwargs)
        try:
            message = record.getMessage()
        except (
            TypeError,
            ValueError,
            KeyError,
        ):  # arguments that do not fit: left to handlers
            return record
        escaped = escape_controls(message, keep="\n\t")
        if escaped != message:  # else the arguments stay, which some formatters need
            record.msg, record.args = escaped, ()
        if record.exc_info and record.exc_info[0]:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = escape_controls(trace, keep="\n\t")  # handlers print this text if there is one
        return record

    create_escaped.escapes = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(create_escaped)
