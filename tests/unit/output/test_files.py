import csv
import io
import re

import numpy as np
import pandas as pd
import pytest

from clipdemo.models.clip.encoder import Origin, TransformersEncoder
from clipdemo.output import files
from clipdemo.output.files import Ranked
from clipdemo.scoring.prompts import Templates
from clipdemo.types import Hit


@pytest.fixture(scope="module")
def encoder(colour_clip):
    return TransformersEncoder(colour_clip, Origin("tiny", "local", "a" * 64, "folder"))


def read(data):
    return pd.read_csv(io.BytesIO(data), encoding="utf-8-sig", keep_default_na=False)


def test_a_ranking_reads_back_with_its_checkpoint(encoder):
    ranked = Ranked(
        "a cat", [Hit(1, 1, 0.5, 99.0), Hit(2, 0, 0.1, 40.0)], ["a.jpg", "b.jpg"], ["aa", "bb"], [0.2, 0.8]
    )
    table = read(files.ranking_csv([ranked], encoder.checkpoint, Templates(("a photo of {}",))))
    assert table["name"].tolist() == ["b.jpg", "a.jpg"]
    assert table["cosine"].tolist() == [0.5, 0.1]
    assert table["share"].tolist() == [0.8, 0.2]
    assert table["sha256"].tolist() == ["bb", "aa"]
    assert set(table["checkpoint"]) == {"tiny"}
    assert set(table["templates"]) == {"a photo of {}"}


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1+1", "-A1", "@SUM(A1)", "\t=1", "  =1", '=HYPERLINK("http://x")']
)
def test_formulas_in_names_and_captions_are_escaped(encoder, cell):
    table = read(
        files.ranking_csv([Ranked(cell, [Hit(1, 0, 0.5, 9)], [cell])], encoder.checkpoint, Templates())
    )
    assert table["query"][0].startswith("'")
    assert table["name"][0].startswith("'")


@pytest.mark.parametrize(
    "cell",
    [
        "-1+1",
        "=-1",
        "@1",
        "\t-1",
        "\r-1",
        "\n-1",
        "\0=1",
        "-1\n",
        "- 1",
        "--1",
        "-1.5.2",
        "-2e",
        "-e5",
        "-",
        "+",
        "-.",
        *["＝1", "＋1", "－1", "＠SUM(A1)", "  －1", "-１", "-1,5", "+49 30 1", "-1|A1"],
    ],
)
def test_text_that_only_starts_like_a_number_is_escaped(cell):
    assert files.escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["-1.5", "+3", "-2e-5", "-.5", "-7.", "+1E+10", " -1 ", "0", "a-b", "a=b", "", " "]
)
def test_plain_numbers_and_words_are_unchanged(cell):
    assert files.escape_formula(cell) == cell


@pytest.mark.parametrize(
    ("cell", "guarded"),
    [
        ("x;=1+1;y", "x;'=1+1;y"),
        ("x\t@SUM(A1)", "x\t'@SUM(A1)"),
        ("x|+A1|-B1", "x|'+A1|'-B1"),
        ("x\n=1", "x\n'=1"),
        ("x\r\n  =1", "x\r\n'  =1"),
        ("x;;=1", "x;;'=1"),
        (";＝1", ";'＝1"),
        ('x;"=1+1"', 'x;\'"=1+1"'),
        ("=1;=2", "'=1;'=2"),
        ("x;-1.5;+3e-5", "x;-1.5;+3e-5"),
        ("a; b = c | d-e", "a; b = c | d-e"),
        ("x, =1", "x, =1"),  # csv quotes a cell with a comma
    ],
)
def test_formulas_are_guarded_where_a_spreadsheet_would_split_the_cell(cell, guarded):
    assert files.escape_formula(cell) == guarded


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "cell", ["x;=1+1;y", "x\t=1", "x|=1", "x\n=1", "x\r=1", 'x;"=1+1";y', 'x";=1', '";=1;"']
)
def test_no_way_to_split_the_file_finds_a_formula(cell, delimiter):
    """Read with quotes, as csv does, and without, as Excel does where another delimiter hides them."""
    out = io.StringIO(newline="")
    writer = files.CsvWriter(out, ["name", cell])
    writer.write([cell, 0.5])
    writer.write(["a", cell])
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)", out.getvalue())
    quoted = [field for row in csv.reader(lines, delimiter=delimiter) for field in row]
    plain = re.split(f"[{delimiter}\r\n]", out.getvalue())
    assert not [field for field in [*quoted, *plain] if field.lstrip(' "').startswith(("=", "+", "@"))]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_line_end_inside_a_cell_never_begins_a_row(line_end):
    out = io.StringIO(newline="")
    writer = files.CsvWriter(out, ["a"], line_end=line_end)
    cells = ["x\ry", "x\ny", "x\r\ny", "\r\n", 'x"\r']
    for cell in cells:
        writer.write([cell])
    assert [row[0].removeprefix("'") for row in csv.reader(io.StringIO(out.getvalue(), newline=""))] == [
        "a",
        *cells,
    ]
    assert out.getvalue().endswith(line_end)


def test_rows_can_be_written_one_by_one():
    out = io.StringIO(newline="")
    writer = files.CsvWriter(out, ["=name", "b"], line_end="\r\n")
    assert out.getvalue() == "'=name,b\r\n"
    writer.write(["@x", None])
    writer.write([-1.5, "-1.5"])
    assert out.getvalue() == "'=name,b\r\n'@x,\r\n-1.5,-1.5\r\n"


def test_a_file_without_rows_has_its_header(encoder):
    data = files.ranking_csv([], encoder.checkpoint, Templates())
    assert data.startswith(b"\xef\xbb\xbfquery,rank,name,cosine,percentile,share,")
    assert len(read(data)) == 0


def test_a_matrix_reads_back_with_its_notes():
    values = np.array([[0.25, np.nan], [-0.5, 1.0]], np.float32)
    data = files.matrix_csv(values, ["a.jpg", "=1+1"], ["a cat", "@x"], {"checkpoint": "tiny", "view": "-x"})
    table = read(data)
    assert list(table.columns) == ["Unnamed: 0", "a cat", "'@x", "checkpoint", "view"]
    assert table.iloc[0].tolist() == ["a.jpg", 0.25, "", "tiny", "'-x"]
    assert table.iloc[1].tolist() == ["'=1+1", -0.5, "1", "tiny", "'-x"]


def test_any_script_survives(encoder):
    caption = 'ein „Hund", 犬 🐕 كلب'
    table = read(
        files.ranking_csv([Ranked(caption, [Hit(1, 0, 0.5, 9)], ["ö.jpg"])], encoder.checkpoint, Templates())
    )
    assert (table["query"][0], table["name"][0]) == (caption, "ö.jpg")


def test_embeddings_read_back_with_names_hashes_and_checkpoint(encoder, colour_items):
    data = files.embeddings_npz(encoder, colour_items, ["red", "blue -- red"], Templates())
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        np.testing.assert_allclose(saved["images"], encoder.encode_images(colour_items), atol=1e-6)
        assert saved["captions"].shape == (2, 16)
        np.testing.assert_allclose(saved["cosine"], saved["images"] @ saved["captions"].T, atol=1e-6)
        assert saved["names"].tolist() == [item.name for item in colour_items]
        assert saved["sha256"].tolist() == [item.sha256 for item in colour_items]
        assert saved["caption_texts"].tolist() == ["red", "blue -- red"]
        assert str(saved["checkpoint"]) == "tiny"
        assert str(saved["fingerprint"]) == "a" * 64


def test_embeddings_of_an_empty_workspace_read_back(encoder):
    with np.load(io.BytesIO(files.embeddings_npz(encoder, [], [], Templates()))) as saved:
        assert saved["images"].shape == (0, 16)
