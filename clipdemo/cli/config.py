"""The configuration file of ``clipdemo pairs``: YAML; command-line options take precedence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from clipdemo.errors import SettingError
from clipdemo.regular import open_regular

URLS = "url"
_MAX_BYTES = 100_000


@dataclass(frozen=True)
class Config:
    """The settings of a configuration file; None for those it leaves out.

    Attributes:
        csv_path: the table.
        image_path: folder that relative image paths start from; None also for "url".
        use_cuda: True for a GPU, False for the CPU.
        pretrained_model: the checkpoint.
    """

    csv_path: Path | None = None
    image_path: Path | None = None
    use_cuda: bool | None = None
    pretrained_model: str | None = None


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        SettingError: an unreadable file, an unknown key, or a value of the wrong type.
    """
    try:
        with open_regular(path) as file:
            content = yaml.safe_load(file.read(_MAX_BYTES))
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise SettingError(
            f"{path} is not a YAML file ({first}); write lines such as csv_path: in.csv"
        ) from error
    if content is None:
        return Config()
    known = {"csv_path": str, "image_path": str, "use_cuda": bool, "pretrained_model": str}
    if not isinstance(content, dict):
        raise SettingError(f"{path} does not contain settings; write lines such as csv_path: in.csv")
    for key, value in content.items():
        if key not in known:
            raise SettingError(f"{path}: unknown setting {key!r}; use {', '.join(known)}")
        if value is not None and not isinstance(value, known[key]):
            kind = "true or false" if known[key] is bool else "text"
            raise SettingError(f"{path}: {key} must be {kind}, not a value of type {type(value).__name__}")
    table, images = content.get("csv_path"), content.get("image_path")
    return Config(
        csv_path=Path(table) if table else None,
        image_path=Path(images) if images and images.lower() != URLS else None,
        use_cuda=content.get("use_cuda"),
        pretrained_model=content.get("pretrained_model") or None,
    )
