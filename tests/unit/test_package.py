"""Promises of the package as a whole: its public names, its layers, its linters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clipdemo
from clipdemo import errors

ROOT = Path(__file__).parents[2]


def test_every_public_name_can_be_had():
    for name in clipdemo.__all__:
        assert getattr(clipdemo, name)


def test_every_error_is_public():
    own = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    assert own <= set(clipdemo.__all__)
    assert all(issubclass(getattr(errors, name), errors.ClipdemoError) for name in own)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = clipdemo.no_such_name


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, clipdemo, clipdemo.models.load, clipdemo.output.files, clipdemo.output.charts\n"
        "loaded = {'torch', 'transformers', 'streamlit'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("torch", {"models/clip", "models/embedded", "models/trained", "models/load.py", "train"}),
        ("transformers", {"models/clip", "models/embedded", "models/trained"}),
        ("requests", {"images/fetch.py"}),
    ],
)
def test_each_framework_has_its_home(package, homes):
    users = set()
    for file in (ROOT / "clipdemo").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == package for name in names):
                users.add(file.relative_to(ROOT / "clipdemo").as_posix())
    assert not [user for user in users if not user.startswith(tuple(homes))]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["importlinter.cli", "lint"],
    ],
    ids=["lint", "format", "types", "layers"],
)
def test_the_code_keeps_its_own_rules(command):
    module, *arguments = command
    run = [sys.executable, "-m", module, *arguments]
    if module == "importlinter.cli":
        run = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
