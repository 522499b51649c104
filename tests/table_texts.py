"""Cells that are hard to read, for generated tables."""

from hypothesis import strategies as st

PIECES = [
    '"',
    '""',
    ",",
    ";",
    "\t",
    "|",
    "\n",
    "\r",
    "\r\n",
    " ",
    "=1+1",
    "@",
    "🐈",
    "قطة",
    "\u202e",
    "\u2028",
    "\ufeff",
]
# No file holds half a surrogate pair; NUL marks binary files.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
