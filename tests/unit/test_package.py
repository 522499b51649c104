"""Promises of the package as a whole: its public names, its layers, its linters."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import clipdemo
from clipdemo import errors
from clipdemo.version import find_version

ROOT = Path(__file__).parents[2]


def test_every_public_name_can_be_imported():
    for name in clipdemo.__all__:
        assert getattr(clipdemo, name)
    everything = {}
    exec("from clipdemo import *", everything)
    assert set(clipdemo.__all__) <= set(everything)
    assert set(clipdemo.__all__) <= set(dir(clipdemo))


def test_type_checkers_know_the_public_names(tmp_path):
    script = tmp_path / "notebook.py"
    imports = "".join(f"from clipdemo import {name}\n" for name in clipdemo.__all__)
    script.write_text(f"{imports}reveal_type(score_matrix)\nimport clipdemo\nclipdemo.no_such_name\n")
    command = [sys.executable, "-m", "mypy", "--strict", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ScoreMatrix" in done.stdout
    assert "no_such_name" in done.stdout
    assert "Found 1 error" in done.stdout, done.stdout


def test_every_error_is_public_and_in_the_tree():
    own = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    assert own <= set(clipdemo.__all__)
    assert all(issubclass(getattr(errors, name), errors.ClipdemoError) for name in own)
    assert set(re.findall(r"\w+Error", errors.__doc__)) == own


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert clipdemo.__version__ == project["version"]


def test_a_checkout_that_is_not_installed_knows_its_version(tmp_path, monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("clipdemo.version.metadata.version", not_installed)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "9.8.7"\n')
    assert find_version(tmp_path / "pyproject.toml") == "9.8.7"
    assert find_version(tmp_path / "missing.toml") == "0+unknown"


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
