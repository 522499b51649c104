"""Tables and image files that visitors upload, for an audit or as ground truth, within the limits."""

from __future__ import annotations

import io
from functools import partial

from clipdemo.errors import TableError
from clipdemo.images import sources
from clipdemo.images.locate import Locator, upload_locator
from clipdemo.images.sources import Source
from clipdemo.limits import MEGABYTE, Limits, format_bytes
from clipdemo.tables.table import Table, open_table, read_columns
from clipdemo.types import Rejected
from clipdemo.ui.quota import Held, hold

MAX_UNPACKED = 2  # times the largest file: characters of all cells together
MAX_IMAGE_BYTES = 200 * MEGABYTE  # of uploaded images and zips, held until the audit ends


def open_uploaded_table(
    name: str,
    data: bytes,
    limits: Limits,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Table:
    """Open an uploaded table; without column names they are found automatically.

    Raises:
        TableError: it cannot be read, lacks a column, or exceeds a limit of this server.
    """
    _check_size(data, limits)
    table = open_table(
        name,
        lambda: io.BytesIO(data),
        image_column=image_column,
        caption_column=caption_column,
        max_rows=limits.rows,
    )
    most, characters = MAX_UNPACKED * limits.file_bytes, 0
    for row in table.rows():  # a few hundred bytes of Parquet may hold gigabytes of text
        characters += sum(map(len, row.cells))
        if characters > most:
            raise TableError(
                f"the table unpacks to more than {most:,} characters; shorten its texts, or split it"
            )
    return table


def uploaded_columns(name: str, data: bytes, limits: Limits) -> tuple[str, ...]:
    """The header of an uploaded table.

    Raises:
        TableError: it cannot be read, or is larger than this server takes.
    """
    _check_size(data, limits)
    return read_columns(name, lambda: io.BytesIO(data), limits.rows)


def locate_uploads(files: list[tuple[str, bytes]], limits: Limits) -> tuple[Locator, list[Rejected]]:
    """How the cells of a table lead to URLs, uploads and members of uploaded zips; and what was refused."""
    found: list[Source] = []
    rejected: list[Rejected] = []
    for name, data in files:
        for item in sources.expand(name, data, "upload", limits):
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                found.append(item)
    held = hold(sum(len(data) for _, data in files))
    return partial(_locate, upload_locator(found, limits), held), rejected


def _locate(locate: Locator, _held: Held, cell: str) -> Source:
    return locate(cell)


def check_image_bytes(total: int) -> None:
    """Refuse more bytes of images than this server holds for one audit.

    Raises:
        TableError: with both sizes.
    """
    if total > MAX_IMAGE_BYTES:
        raise TableError(
            f"the images have {format_bytes(total)} together; this server takes "
            f"{format_bytes(MAX_IMAGE_BYTES)} for one audit; shrink them, or use the command line"
        )


def _check_size(data: bytes, limits: Limits) -> None:
    if len(data) > limits.file_bytes:
        raise TableError(
            f"the table has {len(data):,} bytes; this server takes {limits.file_bytes:,}; "
            "split it, or use clipdemo pairs on the command line"
        )
