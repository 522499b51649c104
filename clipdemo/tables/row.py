"""One row of a table: its image, its caption, its split, and why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

from clipdemo.errors import TableError

MAX_CAPTION = 10_000  # characters; about ten times what any checkpoint reads
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: index among the data rows, from 0.
        cells: one text per column of the table; "" for an empty cell.
        problem: why the row cannot be read, or ""; unreadable rows are padded or cut to the table's width.
        image: the image cell without surrounding whitespace.
        caption: the caption cell with single spaces between words.
    """

    number: int
    cells: tuple[str, ...]
    problem: str
    image: str
    caption: str

    @property
    def unusable(self) -> str:
        """Why the row cannot be scored or trained on, as far as the table alone shows; "" if it can."""
        if self.problem:
            return self.problem
        if not self.image:
            return "no image: the cell is empty"
        if not self.caption:
            return "no caption: the cell is empty"
        if len(self.caption) > MAX_CAPTION:
            return f"the caption has {len(self.caption):,} characters; the limit is {MAX_CAPTION:,}"
        if any("\ud800" <= letter <= "\udfff" for letter in self.caption):
            return "the caption contains characters that are not text (lone surrogates)"
        return ""

    def cell(self, column: int | None) -> str:
        """Return the cell of a column without surrounding whitespace; "" for None, a missing column."""
        return "" if column is None else self.cells[column].strip()

    def split(self, column: int | None) -> str:
        """Return the split named in a column: one of ``SPLITS``, or "" for None, a missing column.

        Raises:
            TableError: the cell names an unknown split.
        """
        if column is None:
            return ""
        name = self.cell(column).casefold()
        if name not in SPLIT_NAMES:
            raise TableError(
                f"row {self.number + 1} has the split {self.cells[column][:40]!r}; write train, val or test, "
                "or leave the column out"
            )
        return SPLIT_NAMES[name]
