"""The real command in its own process, with a small real checkpoint: output, errors, interruptions."""

import csv
import io
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import environment, forking, fresh, wait_until
from inert_pages import Page, is_inert
from PIL import Image
from plain_encoder import SQUARES, csv_of, square_png
from tiny_checkpoints import COLOURS

from clipdemo.models.catalogue import CATALOGUE

GOLDEN = Path(__file__).parent / "golden"
RIGHT = [(f"{colour}.png", f"a {colour} square") for colour in COLOURS]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with forking(tmp_path_factory.mktemp("streams")) as some:
        yield some


@pytest.fixture
def clipdemo(commands, colour_clip, place):
    """Runs a command in ``place`` with the colour checkpoint."""

    def run(*arguments):
        return commands.run(*arguments, "--checkpoint", colour_clip, "--device", "cpu", cwd=place)

    return run


@pytest.fixture
def place(tmp_path):
    """A folder with the eight squares."""
    folder = tmp_path / "place"
    folder.mkdir()
    for name, data in SQUARES.items():
        (folder / name).write_bytes(data)
    return folder


def read(path):
    return list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))


def is_one_sentence(ended, words):
    """Exit code 2, nothing on standard output, one line on standard error and no traceback."""
    assert ended.code == 2, ended
    assert ended.out == ""
    assert re.search(words, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    return True


# ---- golden output

SMALL = [
    ("red.png", "a green square", "swapped", ""),
    ("green.png", "a red square", "swapped", ""),
    ("blue.png", "a blue square", "=1+1", "-5"),
    ("copy.png", "a blue square", "the same bytes", ""),
    ("yellow.png", "a yellow square", "😀 قطة", '"quoted", and a comma'),
    ("black.png", "a black square " + "and so on " * 12, "cut", ""),
    ("white.png", "", "no caption", ""),
    ("gone.png", "a pink square", "no file", ""),
]
NUMBERS = {"similarity": 0.005, "percentile": 1.0}


def golden(name, found, tmp_path):
    """Return the golden text and a message; the actual text is saved next to the test's other files."""
    kept = tmp_path / name
    kept.write_text(found, "utf-8", newline="")
    path = GOLDEN / name
    assert path.is_file(), f"{path} is missing; look at {kept}, and copy it there if it is right"
    return path.read_bytes().decode(), f"{path} differs from {kept}"


def test_pairs_writes_and_prints_the_golden_output(place, colour_clip, tmp_path):
    (place / "copy.png").write_bytes(SQUARES["blue.png"])
    (place / "small.csv").write_bytes(csv_of(SMALL, ("image", "caption", "note", "note")))
    ended = fresh(["pairs", "small.csv", "--checkpoint", colour_clip, "--device", "cpu"], place)
    assert (ended.code, ended.err) == (1, "")
    found = (place / "output.csv").read_bytes().decode()
    expected, differs = golden("small.csv", found, tmp_path)
    found_rows, rows = (list(csv.reader(io.StringIO(text, newline=""))) for text in (found, expected))
    assert found_rows[0] == rows[0], differs
    for found_row, row in zip(found_rows, rows, strict=True):
        for column, cell, expected_cell in zip(rows[0], found_row, row, strict=True):
            if column in NUMBERS and expected_cell and expected_cell != column:
                # The checkpoint is trained during the test, so last digits vary by processor.
                assert float(cell) == pytest.approx(float(expected_cell), abs=NUMBERS[column]), differs
                assert len(cell.partition(".")[2]) == len(expected_cell.partition(".")[2]), differs
            else:
                assert cell == expected_cell, differs
    text = re.sub(r"[\d,.]+ s\b", "N s", ended.out)
    text = re.sub(r"\([\d,.]+/s\)", "(N/s)", text)
    text = re.sub(r"peak memory [\d,]+ MB", "peak memory N MB", text).replace(colour_clip.name, "CHECKPOINT")
    expected, differs = golden("small.txt", text, tmp_path)
    assert text == expected, differs


# ---- hostile tables


def big_png():
    out = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(out, "PNG")
    return out.getvalue()


HOSTILE = [
    (("http://nothing.invalid/a.jpg", "a dead address"), r"^(not reachable|timed out): "),
    (("http://127.0.0.1/a.jpg", "a private address"), r"^blocked: "),
    (("http://169.254.169.254/latest/meta-data", "a cloud's own address"), r"^blocked: "),
    (("file:///etc/hostname", "no web address"), r"^no such file: .*file: addresses are not read"),
    (("/etc/hostname", "outside"), r"^no such file: .*outside"),
    (("../outside.png", "outside"), r"^no such file: .*outside"),
    (("page.png", "HTML instead of an image"), r"^not an image: .*HTML"),
    (("huge.png", "sixty megapixels"), r"^too large: .*60"),
    (("empty.png", "an empty file"), r"^not an image: "),
    (("red.png", ""), r"^no caption: "),
    (("", "a red square"), r"^no image: "),
    (("red.png", "x" * 10_001), r"10,001 characters"),
    (("red.png", "word " * 500), ""),
    (("red.png", "😀 a red square 👩‍👩‍👧"), ""),
    (("red.png", "مربع أحمر \u202e a red square"), ""),
    (("red.png", '=HYPERLINK("http://evil.test","red")'), ""),
    (("red.png", "<script>alert(1)</script>"), ""),
    (("green.png", "a green\nsquare"), ""),
]


def test_a_hostile_table_is_scored_row_by_row(place, clipdemo):
    (place.parent / "outside.png").write_bytes(SQUARES["red.png"])
    (place / "page.png").write_bytes(b"<!doctype html><html><body>not found</body></html>")
    (place / "huge.png").write_bytes(big_png())
    (place / "empty.png").write_bytes(b"")
    rows = [(*row, str(number), "=cmd|' /C calc'!A0") for number, (row, _) in enumerate(HOSTILE)]
    header = ("image", "caption", "caption", "=note")
    (place / "in.csv").write_bytes(csv_of(rows, header) + b"red.png\n" + b'red.png,"never closed\n')
    ended = clipdemo("pairs", "in.csv", "--report", "report.html", "--figures", "figures")
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    found_header, *found = read(place / "output.csv")
    assert found_header[:5] == ["image", "caption", "caption", "'=note", "similarity"]
    assert len(found) == len(HOSTILE) + 2
    for (row, words), cells in zip(HOSTILE, found, strict=False):
        assert cells[1] == ("'" * row[1].startswith("=") + row[1])
        assert cells[3].startswith("'=cmd")
        assert (re.search(words, cells[-1]) is not None) if words else (cells[-1] == ""), cells
        assert bool(cells[4]) == (not words)
    assert [cells[-1] for cells in found[-2:]] == [
        "the row has 1 cell; the header has 4",
        "the quote that opens cell 2 is never closed in the file",
    ]
    of = dict(zip(found_header[4:], zip(*(cells[4:] for cells in found), strict=True), strict=True))
    assert of["truncated"][12] == "yes"
    assert not [cell for column in of.values() for cell in column if cell[:1] in ("=", "@", "\t")]
    scored = sum(not words for _, words in HOSTILE)
    assert f"{scored} of {len(found)} rows scored, {len(found) - scored} failed" in ended.out
    assert "the column 'caption' appears 2 times; the first is used" in ended.out
    assert is_inert(Page((place / "report.html").read_text("utf-8")))


def test_another_encoding_is_read_and_noted(place, clipdemo):
    (place / "in.csv").write_bytes("image;caption\nred.png;a red façade\n".encode("cp1252"))
    ended = clipdemo("pairs", "in.csv")
    assert ended.code == 0
    assert "not UTF-8; it was read as Windows-1252" in ended.out
    assert read(place / "output.csv")[1][1] == "a red façade"


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (b"", [], "the file is empty"),
        (b"photo,words\nred.png,red\n", [], "no image column was found among 'photo', 'words'"),
        (b"image,words\nred.png,red\n", [], "no caption column was found"),
        (b"image,caption\n", ["--image-column", "bild"], "there is no column 'bild'"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", [], "not text"),
        (None, [], r"there is no table in\.csv"),
        (b"image,caption\n", ["--output", "in.csv"], "is the table itself"),
        (b"image,caption\n", ["--output", "no/out.csv"], "there is no folder no"),
        (b"image,caption\n", ["--images", "photos"], "there is no folder of images photos"),
        (b"image,caption\n", ["--config", "run.yaml"], r"run\.yaml cannot be read"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(place, clipdemo, data, arguments, words):
    if data is not None:
        (place / "in.csv").write_bytes(data)
    before = sorted(place.iterdir())
    assert is_one_sentence(clipdemo("pairs", "in.csv", "--json", *arguments), words)
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pairs"], "name a table"),
        (["pairs", "--batch-size", "0"], "--batch-size"),
        (["rank", "red.png"], "give at least one caption"),
        (["rank"], "IMAGES"),
        (["rank", "red.png", "--captions", "gone.txt"], "gone.txt cannot be read"),
        (["nonsense"], "nonsense"),
    ],
)
def test_usage_errors_have_exit_code_2(place, commands, arguments, words):
    ended = commands.run(*arguments, cwd=place)
    assert (ended.code, ended.out) == (2, "")
    assert re.search(words, ended.err)
    assert "Traceback" not in ended.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_an_error(place, commands, colour_clip):
    (place / "in.csv").write_bytes(csv_of(RIGHT))
    ended = commands.run("pairs", "in.csv", "--checkpoint", colour_clip, "--device", "cuda", cwd=place)
    assert is_one_sentence(ended, "this machine lacks a cuda device")
    ended = commands.run("pairs", "in.csv", "--checkpoint", "no/such-folder/here", cwd=place)
    assert is_one_sentence(ended, "neither the folder of a checkpoint on this machine nor a hub name")


# ---- output


def test_pairs_writes_json_pictures_and_a_report(place, clipdemo):
    (place / "in.tsv").write_text("\n".join("\t".join(row) for row in [("url", "text"), *RIGHT]), "utf-8")
    ended = clipdemo("pairs", "in.tsv", "--json", "--figures", "f", "--report", "r.html", "--output", "o.csv")
    assert (ended.code, ended.err) == (0, "")
    data = json.loads(ended.out)
    assert (data["summary"]["scored"], data["summary"]["failed"]) == (8, 0)
    assert data["summary"]["text_to_image"]["recall"]["1"] == 1.0
    assert data["files"] == ["o.csv", "f/image_captions.png", "f/similarity_matrix.png", "r.html"]
    for name in data["files"][1:3]:
        with Image.open(place / name) as picture:
            picture.load()
            assert picture.format == "PNG"
    page = Page((place / "r.html").read_text("utf-8"))
    assert is_inert(page)
    assert page.tags.count("figure") == 8
    assert read(place / "o.csv")[0][:2] == ["url", "text"]


def test_a_config_file_supplies_settings(place, commands, colour_clip):
    photos, table = place / "photos", place / "tables"
    photos.mkdir()
    table.mkdir()
    (photos / "rouge.png").write_bytes(square_png("red"))
    (table / "in.csv").write_bytes(csv_of([("rouge.png", "a red square")]))
    settings = (
        f"csv_path: tables/in.csv\nimage_path: photos\nuse_cuda: false\npretrained_model: {colour_clip}\n"
    )
    (place / "run.yaml").write_text(settings)
    ended = commands.run("pairs", "--config", "run.yaml", "--json", cwd=place)
    assert (ended.code, ended.err) == (0, "")
    data = json.loads(ended.out)
    assert (data["checkpoint"], data["device"]) == (colour_clip.name, "cpu")
    (place / "run.yaml").write_text(settings + "colour: red\n")
    ended = commands.run("pairs", "--config", "run.yaml", "--json", cwd=place)
    assert is_one_sentence(ended, "unknown setting 'colour'; use csv_path, image_path")


def test_rank_as_text_json_and_csv(place, clipdemo):
    (place / "captions.txt").write_text("\ufeffa blue square\n\na red square\n", "utf-8")
    arguments = ["rank", ".", "--caption", "a red square", "--captions", "captions.txt", "--top", 2]
    ended = clipdemo(*arguments, "--output", "rank.csv")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert (lines[0], lines[3]) == ("a red square", "a blue square")
    assert lines[1].endswith("red.png")
    assert lines[4].endswith("blue.png")
    assert len(read(place / "rank.csv")) == 1 + 2 * 8
    data = json.loads(clipdemo(*arguments, "--json").out)
    assert [query["hits"][0]["name"] for query in data["queries"]] == ["red.png", "blue.png"]


def test_matrix_as_csv_json_and_png(place, clipdemo):
    arguments = ["matrix", "red.png", "blue.png", "--caption", "a red square"]
    ended = clipdemo(*arguments, "--figure", "m.png")
    assert (ended.code, ended.err) == (0, "")
    header, red, blue = csv.reader(io.StringIO(ended.out))
    assert header[:2] == ["", "a red square"]
    assert float(red[1]) > float(blue[1])
    with Image.open(place / "m.png") as picture:
        assert picture.format == "PNG"
    data = json.loads(clipdemo(*arguments, "--json", "--output", "m.csv").out)
    assert data["cosine"][0][0] == pytest.approx(float(red[1]), abs=1e-5)
    assert (place / "m.csv").read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("command", ["rank", "matrix"])
def test_images_left_out_are_named_and_exit_code_is_1(place, clipdemo, command):
    (place / "page.png").write_bytes(b"<html>")
    ended = clipdemo(command, "red.png", "page.png", "--caption", "red", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)
    assert ended.err.startswith("left out: page.png: not an image: ")
    assert is_one_sentence(
        clipdemo(command, "page.png", "--caption", "red"), "none of the images can be used"
    )


def test_checkpoints_are_listed(place, commands):
    data = json.loads(commands.run("checkpoints", "--json", cwd=place).out)
    assert [entry["id"] for entry in data["checkpoints"]] == list(CATALOGUE)
    assert data["checkpoints"][0]["here"] is True
    ended = commands.run("checkpoints", cwd=place)
    assert (ended.code, ended.err) == (0, "")
    assert "embedded  (Embedded model, on this machine)" in ended.out


@pytest.mark.parametrize("arguments", [["--help"], ["pairs", "--help"]])
def test_help_imports_no_framework(place, arguments):
    code = (
        "import sys; from clipdemo.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Usage: clipdemo" in done.stdout
    loaded = set(done.stderr.split())
    assert "clipdemo.cli.app" in loaded
    assert not {"torch", "transformers", "numpy", "pandas", "PIL", "streamlit"} & loaded


# ---- stopped runs

# Captions are all different, so that each chunk of rows has something to encode.
LONG = [(f"{colour}.png", f"{n} a {colour} square among others") for n in range(112) for colour in COLOURS]


@pytest.fixture(scope="module")
def long(tmp_path_factory, commands, colour_clip):
    """A function that starts a run on 896 rows, its output file, and the bytes of an uninterrupted run."""
    place = tmp_path_factory.mktemp("long")
    for name, data in SQUARES.items():
        (place / name).write_bytes(data)
    (place / "in.csv").write_bytes(csv_of(LONG))

    def start(*more):
        arguments = ["pairs", "in.csv", "--workers", 2, "--checkpoint", colour_clip, "--device", "cpu"]
        return commands.start(*arguments, *more, cwd=place)

    ended = start("--output", "whole.csv").wait()
    assert ended.code == 0, ended.err
    return start, place / "output.csv", (place / "whole.csv").read_bytes()


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_killed_repeatedly_ends_with_the_same_output(long):
    start, output, whole = long
    progress, partial = (output.with_name(f"output.csv.{end}") for end in ("progress", "partial"))
    chance, kills = random.Random(), 0  # the moments vary from run to run; all must work
    for reached in (0, 1, 65, 129, 257, 449, 577, 705):
        running = start("--resume")
        wait_until(lambda reached=reached: lines_of(partial) >= reached, running)
        time.sleep(chance.uniform(0, 0.12))
        running.send(signal.SIGKILL)
        ended = running.wait()
        kills += ended.code == -signal.SIGKILL
        if ended.code != -signal.SIGKILL:
            assert ended.code == 0, ended.err
            break
        if reached >= 65:
            assert progress.is_file()
    assert kills >= 5
    refused = start().wait()
    assert is_one_sentence(
        refused, r"output\.csv\.progress holds the progress.*add --resume to go on, or delete"
    )
    ended = start("--resume").wait()
    assert ended.code == 0, ended.err
    assert f"{len(LONG)} of {len(LONG)} rows scored, 0 failed" in ended.out
    assert output.read_bytes() == whole
    assert [tuple(row[:2]) for row in read(output)[1:]] == LONG
    assert not list(output.parent.glob("output.csv.*"))
    output.unlink()


def test_ctrl_c_ends_with_130_and_the_run_can_be_resumed(long):
    start, output, whole = long
    running = start()
    partial = output.with_name("output.csv.partial")
    assert wait_until(lambda: lines_of(partial) > 65, running)
    running.send(signal.SIGINT)
    ended = running.wait()
    assert (ended.code, ended.out, ended.err) == (130, "", "clipdemo: stopped\n")
    assert output.with_name("output.csv.progress").is_file()
    assert start("--resume").wait().code == 0
    assert output.read_bytes() == whole
