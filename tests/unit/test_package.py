"""Promises of the package as a whole: its public names, its layers, its linters."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import grimp
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


# --- ratchets: each keeps a property that the code has today ---------------------------------------

PACKAGE = ROOT / "clipdemo"

# Where each framework may be imported, so that nothing else waits for it or depends on its types.
HOMES = {
    "streamlit": {"ui"},
    "starlette": {"ui"},
    "torch": {"models.clip", "models.embedded", "models.trained", "models.load", "train"},
    "transformers": {"models.clip", "models.embedded", "models.trained"},
    "requests": {"images"},
    "urllib3": {"images"},
    "huggingface_hub": {"models.hub"},
    "httpx2": {"models.hub"},
    "jinja2": {"output.html"},
    "plotly": {"output"},
    "ray": {"cluster"},
    "lancedb": {"library.store"},
}

# A short module with one importer is read faster as a function of that importer.
SHORT_MODULE = 40
SHORT_MODULES = {
    "clipdemo.cli.app": "the entry point: it only registers the commands",
    "clipdemo.compare.correlation": "pure statistics, tested alone against SciPy",
    "clipdemo.models.clip.pixels": "NumPy only, tested alone against transformers' processors",
}

# A file of this length can still be read in one go.
LONGEST_FILE = 300


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("clipdemo", include_external_packages=True, cache_dir=None)


def code_lines(file):
    """Lines that are neither blank, comments nor docstrings."""
    text = file.read_text("utf-8")
    lines = {
        n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("framework", HOMES)
def test_each_framework_has_its_home(framework, imports):
    homes = tuple(f"clipdemo.{home}." for home in HOMES[framework])
    users = imports.find_modules_that_directly_import(framework) if framework in imports.modules else set()
    assert not {user for user in users if not f"{user}.".startswith(homes)}


def test_no_short_module_has_a_single_importer(imports):
    short = set()
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if module in imports.modules and code_lines(file) < SHORT_MODULE:
            short |= {module} if len(imports.find_modules_that_directly_import(module)) == 1 else set()
    assert short <= set(SHORT_MODULES)


def test_no_file_is_too_long():
    lengths = {
        file.relative_to(PACKAGE).as_posix(): file.read_text("utf-8").count("\n")
        for file in PACKAGE.rglob("*.py")
    }
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_FILE}
    assert not too_long


def test_each_dependency_is_imported_or_says_why_it_is_needed(imports):
    providers = packages_distributions()
    imported = {
        re.sub(r"[-_.]+", "-", distribution).lower()
        for module in imports.modules
        for distribution in providers.get(module, [])
    }
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        name = re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        assert line.startswith("#") or name in imported or "  # " in line, line


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
