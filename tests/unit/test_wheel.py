"""The wheel is complete: without the checkout, it scores as the checkout does."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(command, folder, **variables):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Folder of an environment that has the wheel, and borrows its dependencies from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], folder)
    venv.create(folder / "venv", with_pip=False)
    paths = sysconfig.get_paths("venv", {"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    # Plain lines: the .pth files of the borrowed folders, which may name a checkout, are not read.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "borrowed.pth").write_text("\n".join(borrowed))
    (wheel,) = folder.glob("*.whl")
    python = Path(paths["scripts"], "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install"]
    run([*pip, "--quiet", "--no-deps", "--no-index", wheel], folder)
    return folder


@pytest.fixture(scope="module")
def python(fresh):
    return fresh / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


def test_the_wheel_is_what_is_imported_and_its_metadata_is_the_version(fresh, python):
    code = (
        "import clipdemo, json; from importlib.metadata import version; from clipdemo import samples\n"
        "print(json.dumps([clipdemo.__file__, version('clipdemo'), clipdemo.__version__, "
        "str(samples.SAMPLES)]))"
    )
    file, version, own_version, samples = json.loads(run([python, "-c", code], fresh))
    assert Path(file).is_relative_to(fresh / "venv")
    assert Path(samples).is_relative_to(fresh / "venv")
    assert own_version == version


def test_the_wheel_scores_as_the_checkout_does(fresh, python):
    picture = ROOT / "assets" / "samples" / "cat.jpg"
    command = ["-m", "clipdemo", "rank", picture, "--caption", "a cat", "--json"]
    installed = json.loads(run([python, *command], fresh))
    checkout = json.loads(run([sys.executable, *command], fresh, PYTHONPATH=str(ROOT)))
    (hit,), (expected,) = (ranked["queries"][0]["hits"] for ranked in (installed, checkout))
    assert hit.pop("cosine") == pytest.approx(expected.pop("cosine"), abs=1e-5)
    assert hit.pop("percentile") == pytest.approx(expected.pop("percentile"), abs=1)  # 1 pair of 100
    assert hit == expected


def test_the_wheel_brings_the_command(fresh, python):
    assert "rank" in run([python.with_name("clipdemo"), "--help"], fresh)


def test_the_wheel_carries_its_types_and_its_data_and_no_tests(fresh):
    (package,) = (fresh / "venv").rglob("site-packages/clipdemo")
    assert files_below(ROOT / "clipdemo") < files_below(package)
    assert files_below(ROOT / "assets" / "samples") == files_below(package / "assets" / "samples")
    assert "py.typed" in files_below(package)
    assert not any("test" in file for file in files_below(package))


def files_below(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in paths}
