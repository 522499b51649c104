"""The version of clipdemo."""

import tomllib
from importlib import metadata
from pathlib import Path


def find_version(pyproject: Path = Path(__file__).parents[1] / "pyproject.toml") -> str:
    """The installed version; in a checkout that is not installed, the version in ``pyproject``.

    A copy of the package without either (an image that holds only ``clipdemo/``) is "0+unknown".
    """
    try:
        return metadata.version("clipdemo")
    except metadata.PackageNotFoundError:
        if not pyproject.is_file():
            return "0+unknown"
        return str(tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"])


__version__ = find_version()
