"""Difficult cells for generated tables."""

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
# Half a surrogate pair cannot be encoded; NUL marks binary files.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
