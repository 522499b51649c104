import datetime
import decimal
import gzip
import hashlib
import io
import json
import tracemalloc
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from clipdemo.errors import ClipdemoError, TableError
from clipdemo.tables.row import Row
from clipdemo.tables.table import open_table, read_columns


def opened(data, name="table.csv", **columns):
    data = data.encode() if isinstance(data, str) else data
    return open_table(name, lambda: io.BytesIO(data), **columns)


def cells(data, name="table.csv", **columns):
    table = opened(data, name, **columns)
    rows = list(table.rows())
    assert table.count == len(rows)
    assert [row.number for row in rows] == list(range(len(rows)))
    assert all(len(row.cells) == len(table.columns) for row in rows)
    assert [row.problem for row in rows] == [""] * len(rows)
    return [row.cells for row in rows]


def problems(data, name="table.csv"):
    table = opened(data, name)
    rows = list(table.rows())
    assert table.count == len(rows)
    assert all(len(row.cells) == len(table.columns) for row in rows)
    return [row.problem for row in rows]


def refusal(data, name="table.csv", **columns):
    with pytest.raises(TableError) as caught:
        opened(data, name, **columns)
    return str(caught.value)


def packed(table):
    out = io.BytesIO()
    parquet.write_table(pa.table(table) if isinstance(table, dict) else table, out)
    return out.getvalue()


def test_a_table_says_what_it_is():
    data = b"id,image,caption\n1,a.jpg,a cat\n2,b.jpg,a dog\n"
    table = opened(data)
    assert (table.name, table.columns) == ("table.csv", ("id", "image", "caption"))
    assert (table.image, table.caption, table.count, table.notes) == (1, 2, 2, ())
    assert table.sha256 == hashlib.sha256(data).hexdigest()
    assert list(table.rows()) == [
        Row(0, ("1", "a.jpg", "a cat"), "", "a.jpg", "a cat"),
        Row(1, ("2", "b.jpg", "a dog"), "", "b.jpg", "a dog"),
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_rows_can_be_read_again_and_from_any_row(name):
    images = [f"{n}.jpg" for n in range(700)]
    if name == "t.parquet":
        out = io.BytesIO()
        parquet.write_table(pa.table({"image": images, "caption": images}), out, row_group_size=300)
        data = out.getvalue()
    elif name == "t.jsonl":
        data = "".join(json.dumps({"image": i, "caption": i}) + "\n" for i in images)
    else:
        data = "image,caption\n" + "".join(f"{i},{i}\n" for i in images)
    table = opened(data, name)
    for start in (0, 1, 255, 256, 299, 300, 301, 600, 699, 700, 2_000):
        rows = list(table.rows(start))
        assert [row.number for row in rows] == list(range(start, 700))
        assert [row.cells[0] for row in rows] == images[start:]
    with pytest.raises(ValueError, match="start is -1"):
        next(table.rows(-1))
    half = table.rows()
    next(half)
    assert len(list(table.rows())) == 700
    assert next(half).number == 1
    half.close()


def test_every_file_that_was_opened_is_closed():
    files = []

    def opener():
        files.append(io.BytesIO(b"image,caption\na,b\nc,d\n"))
        return files[-1]

    rows = open_table("t.csv", opener).rows()
    next(rows)
    rows.close()
    assert all(file.closed for file in files)


# The format


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t", "t.parquet"])
def test_the_content_decides_the_format_before_the_name(name):
    if name != "t.parquet":
        assert cells('\n {"image": "a", "caption": "b"}\n', name) == [("a", "b")]
    assert cells(packed({"image": ["a"], "caption": ["b"]}), name) == [("a", "b")]


def test_the_suffix_decides_for_jsonl_if_the_first_line_is_broken():
    table = opened('oops\n{"image": "a", "caption": "b"}\n', "t.jsonl")
    assert [bool(row.problem) for row in table.rows()] == [True, False]


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"PK\x05\x06" + bytes(18), "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "save the sheet as CSV"),
        (gzip.compress(b"image,caption\n"), "unpack it first"),
        (b"%PDF-1.7\n", "save the table in it as CSV"),
        (b"PARE" + bytes(50), "without encryption"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "byte 8 is NUL"),
        ("image,caption\n".encode("utf-16-le"), "the text as UTF-8"),
        ("image,caption\n".encode("utf-32"), "save it as UTF-8"),
        (b"image,caption\n" + b"a,b\n" * 50_000 + b"a,\0b\n", "byte 200,016 is NUL"),
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b" \r\n\n\t\n", "the file is empty"),
        (b'[{"image": "a"}]', "JSONL"),
        (b'\xef\xbb\xbf [\n  {"image": "a"}]', "JSONL"),
        (b"[]", "JSONL"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused_with_advice(data, advice):
    assert advice in refusal(data)


def test_a_spreadsheet_is_refused_whatever_its_name():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert "save the sheet as CSV" in refusal(out.getvalue(), "table.xlsx")
    assert "save the sheet as CSV" in refusal(out.getvalue(), "table.csv")


def test_a_file_called_parquet_with_other_content_is_refused():
    assert "does not begin like Parquet" in refusal("image,caption\n", "t.parquet")


def test_a_file_that_cannot_be_opened_is_a_table_error(tmp_path):
    with pytest.raises(TableError, match="No such file"):
        open_table("t.csv", lambda: (tmp_path / "none.csv").open("rb"))
    with pytest.raises(TableError, match="cannot be read"):
        read_columns("t.csv", lambda: tmp_path.open("rb"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_that_vanishes_before_its_rows_are_read_is_a_table_error(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(
        {
            "csv": b"image,caption\na,b\n",
            "jsonl": b'{"image": "a", "caption": "b"}\n',
            "parquet": packed({"image": ["a"], "caption": ["b"]}),
        }[kind]
    )
    table = open_table(path.name, lambda: path.open("rb"))
    path.unlink()
    with pytest.raises(TableError, match="No such file"):
        list(table.rows())


def test_the_error_is_one_of_ours_with_a_verdict():
    assert issubclass(TableError, ClipdemoError)
    assert TableError.verdict == "not usable"


# Columns


@pytest.mark.parametrize(
    ("header", "image", "caption"),
    [
        ("caption,image", 1, 0),
        (" Image ,CAPTION", 0, 1),
        ("path,file,url,image_url,image,title,text,caption", 4, 7),
        ("path,file,url,image_url,title,text", 3, 5),
        ("path,file,url,title", 2, 3),
        ("path,file,sentence", 1, 2),
        ("sentence,path", 1, 0),
        ("filepath,image_path,filename,file_name,description,captions", 3, 5),
        ("ID,Filename,Description", 1, 2),
    ],
)
def test_columns_are_found_by_name_in_order_of_preference(header, image, caption):
    table = opened(header + "\n")
    assert (table.image, table.caption, table.count) == (image, caption, 0)
    assert table.columns == tuple(header.split(","))
    assert table.notes == ()


@pytest.mark.parametrize(
    ("image", "caption", "found"),
    [
        ("foto", "worte", (0, 1)),
        ("Foto", "worte", (2, 1)),
        (" FOTO ", "WORTE", (0, 1)),
        ("foto", None, (0, 3)),
        (None, "worte", (4, 1)),
        (None, "url", (5, 4)),
    ],
)
def test_a_chosen_column_is_matched_exactly_then_without_case(image, caption, found):
    table = opened("foto,worte,Foto,caption,url,path\n", image_column=image, caption_column=caption)
    assert (table.image, table.caption) == found


def test_a_missing_chosen_column_lists_the_existing_ones():
    message = refusal("image,caption\n", image_column="picture")
    assert message == "there is no column 'picture'; the columns are 'image', 'caption'"


def test_one_column_cannot_be_both():
    message = refusal("image,caption\n", image_column="image", caption_column="Image")
    assert "'image' cannot be both" in message


def test_a_duplicate_name_is_noted_and_the_first_is_used():
    table = opened("image,image,caption\na,b,c\n")
    assert table.columns == ("image", "image", "caption")
    assert (table.image, table.caption) == (0, 2)
    assert table.notes == ("the column 'image' appears 2 times; the first is used",)
    assert [row.cells for row in table.rows()] == [("a", "b", "c")]
    table = opened("x,y,y,y\n", image_column="x", caption_column="y")
    assert (table.caption, len(table.notes)) == (1, 1)
    assert "3 times" in table.notes[0]


def test_a_missing_column_names_those_found_and_how_to_choose():
    message = refusal("photo,words\na,b\n")
    assert "no image column" in message
    assert "'photo', 'words'" in message
    assert "call one 'image' or choose" in message
    assert "no caption column was found among 'image', 'words'" in refusal("image,words\n")
    many = refusal(",".join(f"column {n}" for n in range(40)) + "\n")
    assert "'column 9' and 30 more" in many
    assert len(refusal("x" * 999 + ",y\n")) < 400


@pytest.mark.parametrize(
    "first", ["https://example.com/a.jpg,a cat", "pics/a.JPG,a cat", "1;http://x/y;a cat"]
)
def test_a_missing_header_is_reported(first):
    message = refusal(f"{first}\n{first}\n")
    assert "looks like data; add a header" in message
    assert "a cat" in message


@pytest.mark.parametrize("width", [1_000, 1_001])
def test_more_than_a_thousand_columns_are_refused(width):
    names = ["image", "caption", *(f"c{n}" for n in range(width - 2))]
    made = {
        "t.csv": ",".join(names) + "\n",
        "t.jsonl": json.dumps(dict.fromkeys(names, "")),
        "t.parquet": packed({name: ["x"] for name in names}),
    }
    for name, data in made.items():
        if width == 1_000:
            assert len(opened(data, name).columns) == 1_000
        else:
            assert "1,001 columns or more; the limit is 1,000" in refusal(data, name)


def test_a_name_of_more_than_a_thousand_characters_is_refused():
    assert "1,001 characters; the limit is 1,000" in refusal("image,caption," + "x" * 1_001)
    assert opened("image,caption," + "x" * 1_000).count == 0
    assert "2,000 characters" in refusal(json.dumps({"image": "", "caption": "", "x" * 2_000: ""}))


@pytest.mark.parametrize(
    ("name", "data", "columns"),
    [
        ("t.csv", "a;image;image\n1;2;3\n", ("a", "image", "image")),
        ("t.tsv", "a\timage\n", ("a", "image")),
        ("t.csv", "just one\n", ("just one",)),
        ("t.jsonl", '{"a": 1}\n{"b": 1}\n', ("a", "b")),
        ("t.parquet", packed({"x": [1], "y": [2]}), ("x", "y")),
    ],
)
def test_the_header_alone_can_be_read_without_finding_columns(name, data, columns):
    data = data.encode() if isinstance(data, str) else data
    assert read_columns(name, lambda: io.BytesIO(data)) == columns


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read_with_and_without_a_byte_order_mark(encoding):
    data = 'image,caption\r\nä.jpg,"eine Katze, 猫 🐈 قطة"\r\n'.encode(encoding)
    assert cells(data) == [("ä.jpg", "eine Katze, 猫 🐈 قطة")]
    assert opened(data).notes == ()


def test_big_endian_utf_16_is_read():
    data = b"\xfe\xff" + "image;caption\nä;ö\n".encode("utf-16-be")
    assert cells(data) == [("ä", "ö")]


def test_jsonl_with_a_byte_order_mark_is_read():
    text = '{"image": "a", "caption": "ö"}\r\n'
    assert cells(text.encode("utf-8-sig"), "t.jsonl") == [("a", "ö")]
    assert cells(text.encode("utf-16"), "t.txt") == [("a", "ö")]


def test_what_is_not_utf_8_is_windows_1252_with_a_note():
    table = opened("image,caption\na,“schön” für 5 €\n".encode("cp1252"))
    assert [row.cells for row in table.rows()] == [("a", "“schön” für 5 €")]
    assert table.notes == ("the file is not UTF-8; it was read as Windows-1252",)


def test_bytes_undefined_in_windows_1252_are_replaced_and_counted():
    table = opened(b"image,caption\na,b\x81c\x9d\xff\n")
    assert [row.cells for row in table.rows()] == [("a", "b\ufffdc\ufffdÿ")]
    assert "2 of its bytes" in table.notes[0]


def test_a_late_byte_decides_the_encoding_of_the_whole_file():
    table = opened(b"image,caption\n" + "ö,x\n".encode() * 50_000 + b"\xe4,x\n")
    assert "Windows-1252" in table.notes[0]
    assert next(table.rows()).cells[0] == "Ã¶"


def test_a_character_cut_by_the_end_of_the_file_is_not_utf_8():
    assert "Windows-1252" in opened("image,caption\na,ö".encode()[:-1]).notes[0]


def test_characters_across_the_borders_of_chunks_are_whole():
    for shift in range(4):
        data = "image,caption\n" + "x" * shift + "🐈" * 40_000 + ",y\n"
        assert cells(data) == [("x" * shift + "🐈" * 40_000, "y")]


def test_marked_text_that_breaks_its_encoding_is_noted():
    table = opened("image,caption\na,b\n".encode("utf-16") + b"\n")
    assert "marked as UTF-16 but is not valid" in table.notes[0]
    table = opened(b"\xef\xbb\xbfimage,caption\na,\xff\n")
    assert "marked as UTF-8 but" in table.notes[0]
    assert [row.cells for row in table.rows()] == [("a", "\ufffd")]


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected_from_the_content(delimiter):
    for rows in (
        ["image", "caption"],
        ["image", "caption", "a", "b"],
        ["image", "caption", "a", '"b, c; d| e"'],
    ):
        pairs = zip(rows[::2], rows[1::2], strict=True)
        text = "".join(f"{image}{delimiter}{caption}\n" for image, caption in pairs)
        assert opened(text).columns == ("image", "caption")
        assert set(problems(text)) <= {""}


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ("image;caption\n" + "a.jpg;one, two, three\n" * 50, ("image", "caption")),
        ("image,caption\n" + "a.jpg,one; two; three\n" * 50, ("image", "caption")),
        ('"image, the";caption;"image"\na;b;c\n', ("image, the", "caption", "image")),
        ("foto;worte\na;b, c\n", ("foto", "worte")),
        ("foto;worte, und mehr\na;b\nc;d\n", ("foto", "worte, und mehr")),
        ("image|caption\nhttp://x/a,b;c|d\n", ("image", "caption")),
        ("sep=;\nimage;caption\n", ("image", "caption")),
        ('"sep=|"\r\nimage|caption\r\n', ("image", "caption")),
    ],
)
def test_the_header_decides_between_delimiters(data, columns):
    assert read_columns("t.csv", lambda: io.BytesIO(data.encode())) == columns


def test_a_separator_hint_for_excel_is_skipped():
    assert cells("sep=;\nimage;caption\na;b\n") == [("a", "b")]


def test_tsv_means_tab():
    assert cells("image\tcaption\na\tb, c, d\n", "t.tsv") == [("a", "b, c, d")]
    assert "'image,caption'" in refusal("image,caption\n", "t.TSV")


def test_quoted_cells_contain_delimiters_line_ends_and_quotes():
    data = 'image,caption\n"a ""b"", c","line\r\nline\rline\n\nline"\n"",""""\n" d "  ,  "e"\nf"g, h\n'
    assert cells(data) == [
        ('a "b", c', "line\r\nline\rline\n\nline"),
        ("", '"'),
        (" d ", "e"),
        ('f"g', " h"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_any_line_end_is_read_and_the_last_may_be_missing(end):
    assert cells(end.join(["image,caption", "a,b", "c,d"])) == [("a", "b"), ("c", "d")]
    assert cells(end.join(["", "image,caption", "", " ", "a,b", "", "c,d", "", ""])) == [
        ("a", "b"),
        ("c", "d"),
    ]


def test_unicode_line_separators_do_not_end_a_line():
    assert cells("image,caption\na,b\u2028c\x85d\x0be\x1ef\n") == [("a", "b\u2028c\x85d\x0be\x1ef")]


def test_empty_rows_of_a_sheet_are_rows():
    assert cells("image,caption\n,\n") == [("", "")]


def test_rows_with_too_few_or_too_many_cells_name_both_numbers():
    data = "image,caption,x\na,b\nonly\na,b,c,,\na,b,c,d\na,b,c\n"
    assert problems(data) == [
        "the row has 2 cells; the header has 3",
        "the row has 1 cell; the header has 3",
        "",
        "the row has 4 cells; the header has 3",
        "",
    ]
    assert [row.cells for row in opened(data).rows()] == [
        ("a", "b", ""),
        ("only", "", ""),
        ("a", "b", "c"),
        ("a", "b", "c"),
        ("a", "b", "c"),
    ]


def test_a_quote_that_is_never_closed_costs_one_row():
    data = 'image,caption\na,b\nc,"d\ne,f\ng,h\n'
    assert problems(data) == ["", "the quote that opens cell 2 is never closed in the file", "", ""]
    assert [row.cells for row in opened(data).rows()][1:] == [("c", '"d'), ("e", "f"), ("g", "h")]


def test_a_quote_that_is_not_closed_for_long_costs_one_row():
    data = 'image,caption\nc,"d\n' + "e,f\n" * 600_000
    table = opened(data)
    assert table.count == 600_001
    rows = table.rows()
    assert next(rows).problem == "the quote that opens cell 2 is never closed within 2,000,000 characters"
    assert next(rows).cells == ("e", "f")


def test_a_quote_inside_a_quoted_cell_costs_one_row():
    data = 'image,caption\na,"he said "hi" to me"\nb,"c\nd,"e\nf,g\n'
    found = problems(data)
    assert found[0] == "cell 2 goes on after its closing quote; double the quotes inside a quoted cell"
    assert found[1] == "cell 2 goes on after its closing quote; double the quotes inside a quoted cell"
    assert found[2] == "the quote that opens cell 2 is never closed in the file"
    assert found[3] == ""


def test_a_header_with_broken_quotes_is_refused():
    assert "the header cannot be read: the quote that opens cell 2" in refusal('image,"caption\na,b\n')


def test_a_cell_of_more_than_a_million_characters_is_a_problem():
    for cell in ("x" * 1_000_001, '"' + "x\n" * 500_001 + '"'):
        table = opened(f"image,caption\na,{cell}\nb,c\n")
        long, fine = table.rows()
        assert "the limit is 1,000,000" in long.problem
        assert len(long.cells[1]) == 1_000_000
        assert (fine.cells, fine.problem) == (("b", "c"), "")
    assert problems("image,caption\na," + "x" * 1_000_000) == [""]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1_999_996, 1_999_997, 1_999_998, 1_999_999, 4_000_000, 5_000_001])
def test_a_line_of_any_length_is_one_row(size, end):
    table = opened(f"image,caption{end}a,{'x' * size}{end}b,c{end}")
    long, fine = table.rows()
    assert long.problem
    assert fine.cells == ("b", "c")


# JSONL


def test_jsonl_columns_are_all_keys_in_order_of_first_appearance():
    data = '{"image": "a", "n": 1}\n\n{"caption": "b", "image": "c"}\r\n{}\n'
    table = opened(data)
    assert table.columns == ("image", "n", "caption")
    assert cells(data) == [("a", "1", ""), ("c", "", "b"), ("", "", "")]


def test_other_values_than_strings_become_json():
    row = {"image": None, "caption": ["ä", 1], "a": {"b": None}, "c": True, "d": 1.5, "e": -3, "f": "\0\n"}
    assert cells(json.dumps(row)) == [("", '["ä", 1]', '{"b": null}', "true", "1.5", "-3", "\0\n")]


def test_lines_without_an_object_are_problems():
    lines = ['{"image": "a", "caption": "b"}', "{", "[1, 2]", '"x"', "null", "[" * 100_000, "{'a': 1}"]
    lines += ['{"n": ' + "1" * 5_000 + "}", "x" * 2_000_000, '{"image": "c", "caption": "d"}']
    first, *broken, last = problems("\n".join(lines), "t.jsonl")
    assert (first, last) == ("", "")
    assert broken == [
        broken[0],
        "the line is [1, 2], not a JSON object",
        'the line is "x", not a JSON object',
        "the line is null, not a JSON object",
        "the line's lists or objects are nested too deeply",
        broken[5],
        "the line contains a number with too many digits",
        "the line has 2,000,000 characters or more, which is too long",
    ]
    assert broken[0].startswith("the line is not JSON: ")
    assert broken[5].endswith("at character 2")


def test_jsonl_without_any_object_is_refused():
    assert "none of the file's 2 lines is a JSON object" in refusal('{\n"image": 1', "t.json")
    assert "none of the file's 1 lines" in refusal("{}")


def test_half_a_surrogate_pair_becomes_a_replacement_character():
    row = r'{"image": "\ud83d", "caption": "\ud83d\udc08", "\udc00": ["\udc08"]}'
    assert cells(row) == [("\ufffd", "🐈", '["\ufffd"]')]
    assert opened(row).columns[2] == "\ufffd"


# Parquet


def test_parquet_cells_become_text():
    table = pa.table(
        {
            "image": pa.array(["a", None]),
            "caption": pa.array(["ä", "b"]).dictionary_encode(),
            "n": [1, None],
            "x": [0.5, 2.0],
            "yes": [True, False],
            "list": [["ö", None], []],
            "struct": [{"a": 1, "b": "ü"}, None],
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
            "day": [datetime.date(2026, 1, 2), None],
            "time": pa.array([1, 2], pa.timestamp("ns")),
            "price": [decimal.Decimal("1.50"), None],
        }
    )
    first, second = cells(packed(table), "t.parquet")
    assert first[:5] == ("a", "ä", "1", "0.5", "true")
    assert first[5:9] == ('["ö", null]', '{"a": 1, "b": "ü"}', '[["k", 1]]', "2026-01-02")
    assert first[9].startswith("1970-01-01 00:00:00")
    assert first[10] == "1.50"
    assert second[:3] == ("", "b", "")
    assert second[6] == ""


def test_columns_of_bytes_are_left_empty_with_a_note():
    table = {"image": [{"bytes": b"\xff", "path": "p"}], "url": ["u"], "caption": ["c"], "raw": [b"\0"]}
    opened_table = opened(packed(table))
    assert (opened_table.image, opened_table.caption) == (1, 2)
    assert [row.cells for row in opened_table.rows()] == [("", "u", "c", "")]
    assert opened_table.notes == (
        "the column 'image' contains bytes, not text; its cells are left empty",
        "the column 'raw' contains bytes, not text; its cells are left empty",
    )
    assert "'raw' contains bytes" in refusal(packed(table), image_column="raw")
    del table["url"]
    assert "no image column was found among 'image', 'caption', 'raw'" in refusal(packed(table))
    assert "'image' contains bytes" in refusal(packed(table))


def test_parquet_with_two_columns_of_one_name_is_read():
    table = pa.Table.from_arrays([pa.array([x]) for x in "abc"], names=["image", "caption", "image"])
    assert cells(packed(table)) == [("a", "b", "c")]
    assert "2 times" in opened(packed(table)).notes[0]


def test_parquet_without_rows_is_a_table():
    assert cells(packed({"image": pa.array([], pa.string()), "caption": pa.array([], pa.string())})) == []


def test_a_cell_that_is_not_utf_8_is_a_problem_of_its_row():
    bad = pa.array([b"\xff", b"ok"]).view(pa.string())
    bad, fine = opened(packed({"image": bad, "caption": ["b", "c"]})).rows()
    assert bad.cells == ("", "b")
    assert bad.problem.startswith("the cell of the column 'image' cannot be read: ")
    assert (fine.cells, fine.problem) == (("ok", "c"), "")


def test_a_long_parquet_cell_is_a_problem():
    assert "1,000,001 characters" in problems(packed({"image": ["a"], "caption": ["x" * 1_000_001]}))[0]


def test_a_truncated_or_damaged_parquet_file_is_a_table_error():
    out = io.BytesIO()
    table = pa.table({"image": [f"{n * 7919}.jpg" for n in range(500)], "caption": ["a cat"] * 500})
    parquet.write_table(table, out, row_group_size=100)
    data = out.getvalue()
    for size in (4, 8, 12, len(data) // 2, len(data) - 1):
        assert "broken" in refusal(data[:size])
    damaged = data[:40] + b"\xff" * 200 + data[240:]
    with pytest.raises(TableError, match="broken"):
        list(opened(damaged).rows())


def test_parquet_with_fewer_rows_than_it_declared_is_a_table_error():
    files = [packed({"image": ["a", "b"], "caption": ["c", "d"]})] * 2 + [
        packed({"image": ["a"], "caption": ["c"]})
    ]
    table = open_table("t.parquet", map(io.BytesIO, files).__next__)
    with pytest.raises(TableError, match="declares 2 rows but ends after 1"):
        list(table.rows())


# Memory


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "header", "line", "count"),
    [
        ("t.csv", "image,caption\n", "https://example.com/{}.jpg,a cat with the number {}\n", 200_000),
        ("t.csv", "image,caption\n", '{}.jpg,"a ""cat"",\n{}"\n', 20_000),
        ("t.jsonl", "", '{{"image": "{}.jpg", "caption": "a cat with the number {}"}}\n', 20_000),
    ],
    ids=["csv", "quoted csv", "jsonl"],
)
def test_memory_does_not_grow_with_the_table(tmp_path, name, header, line, count):
    path = tmp_path / name
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(line.format(n, n) for n in range(count))

    def read():
        table = open_table(name, lambda: path.open("rb"))
        assert table.count == sum(1 for _ in table.rows()) == count

    assert peak(read) < 3_000_000


def test_memory_does_not_grow_with_an_endless_line(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"image,caption\na,")
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b'\nb,"')
        for _ in range(60):
            file.write((b"y" * 999 + b"\n") * 1_000)

    def read():
        rows = open_table(path.name, lambda: path.open("rb")).rows()
        assert "too long" in next(rows).problem
        assert "never closed" in next(rows).problem

    assert peak(read) < 30_000_000


def test_quotes_that_reopen_on_every_line_take_linear_time():
    # Each row seems to go on to the end of the file; looked ahead for every time, this would take hours.
    data = ("image,caption\n" + 'x","y\n' * 100_000).encode()
    table = open_table("a.csv", lambda: io.BytesIO(data))
    assert table.count == 100_000
    assert all(row.problem for row in table.rows())
