"""docs/cli.md matches the commands: their help texts, columns, flags and settings."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from clipdemo.audit.judge import FLAGS, RESULT_COLUMNS, STRONG_FROM, WEAK_BELOW
from clipdemo.audit.score import CHUNK
from clipdemo.cli.app import app
from clipdemo.cli.config import Config
from clipdemo.tables.row import MAX_CAPTION
from clipdemo.tables.table import CAPTION_NAMES, IMAGE_NAMES

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8")
PROSE = " ".join(TEXT.split())  # whatever the line breaks
BLOCKS = re.findall(r"^```text\n(.*?)\n```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = sorted(get_command(app).commands)


def help_of(*command):
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="clipdemo", terminal_width=100)
    assert done.exit_code == 0
    return done.stdout.strip()


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_the_page_contains_the_help_of_each_command(command):
    assert help_of(*command) in BLOCKS


def test_the_page_contains_no_other_help():
    assert len(BLOCKS) == 1 + len(COMMANDS)
    assert re.findall(r"^## clipdemo (\w+)$", TEXT, re.MULTILINE) == [
        "pairs",
        "rank",
        "matrix",
        "train",
        "evaluate",
        "checkpoints",
    ]


def test_each_result_column_and_flag_has_its_line_in_order():
    assert re.findall(r"^\| `([a-z_]+)` \|", TEXT, re.MULTILINE)[: len(RESULT_COLUMNS)] == list(
        RESULT_COLUMNS
    )
    assert all(f"| `{flag}` |" in TEXT for flag in FLAGS)


def test_the_numbers_in_the_page_are_those_of_the_code():
    assert f"the percentile is below {WEAK_BELOW:g}" in PROSE
    assert f"a percentile of {STRONG_FROM:g} or more" in PROSE
    assert f"{CHUNK} or four batches" in PROSE
    assert f"at most {MAX_CAPTION:,} characters" in PROSE


def test_the_names_of_columns_and_settings_are_those_of_the_code():
    columns = PROSE[PROSE.index("Columns are found by name") : PROSE.index("the first of these lists")]
    assert re.findall(r"`(\w+)`", columns) == [*IMAGE_NAMES, *CAPTION_NAMES]
    yaml = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1]
    assert re.findall(r"^(\w+):", yaml, re.MULTILINE) == [field.name for field in dataclasses.fields(Config)]


@pytest.mark.parametrize("line", re.findall(r"^clipdemo .*$", TEXT, re.MULTILINE))
def test_each_example_is_a_valid_command(line):
    command, *arguments = shlex.split(line.split(" > ")[0])[1:]
    get_command(app).commands[command].make_context(command, arguments)
