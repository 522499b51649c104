import io

import pytest

from clipdemo.errors import TableError
from clipdemo.tables.row import MAX_CAPTION, SPLIT_NAMES, SPLITS
from clipdemo.tables.table import open_table


def table_of(text):
    return open_table("t.csv", lambda: io.BytesIO(text.encode()))


def test_a_row_knows_its_image_caption_and_other_cells():
    table = table_of('Split,image,caption\nDev," a b.jpg ","  a\n cat "\n')
    (row,) = table.rows()
    assert (row.image, row.caption) == ("a b.jpg", "a cat")
    column = table.column("split")
    assert (column, row.cell(column), row.split(column)) == (0, "Dev", "val")
    assert table.column("licence", "caption", "image") == 2
    assert table.column("licence") is None
    assert row.cell(None) == row.split(None) == ""


def test_every_split_name_means_one_of_three_splits():
    assert set(SPLIT_NAMES.values()) == set(SPLITS)
    table = table_of("image,caption,split\na,b,maybe\n")
    with pytest.raises(TableError, match=r"row 1 has the split 'maybe'; write train, val or test"):
        next(table.rows()).split(2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg,a cat", ""),
        ("a.jpg", "the row has 1 cell; the header has 2"),
        (",a cat", "no image: the cell is empty"),
        ("a.jpg, \t", "no caption: the cell is empty"),
        ("a.jpg," + "x" * MAX_CAPTION, ""),
        ("a.jpg," + "x" * (MAX_CAPTION + 1), "the caption has 10,001 characters; the limit is 10,000"),
    ],
)
def test_a_row_says_why_it_cannot_be_used(line, reason):
    assert [row.unusable for row in table_of(f"image,caption\n{line}\n").rows()] == [reason]


def test_a_selection_is_a_table_of_its_rows_numbered_from_0():
    table = table_of("image,caption\na,1\nb,2\nc,3\n").where(lambda row: row.caption != "2")
    assert table.count == 2
    assert [(row.number, row.image) for row in table.rows()] == [(0, "a"), (1, "c")]
    assert [(row.number, row.image) for row in table.rows(1)] == [(1, "c")]
