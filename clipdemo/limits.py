"""The limits that protect a shared host, each set by one ``CLIPDEMO_*`` environment variable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from clipdemo.errors import SettingError

MEGABYTE = 1_000_000
Typed = Literal["none", "hub", "folders"]


@dataclass(frozen=True)
class Limits:
    """What one session may use, and what the process may keep.

    Attributes:
        images: per workspace.
        captions: per workspace.
        rows: per audited table.
        file_bytes: per image file, also when it is fetched or unzipped.
        urls: per paste.
        url_seconds: from the request to the last byte.
        urls_allowed: whether the server fetches URLs at all.
        cache_bytes: for the embeddings of all sessions together.
        memory_bytes: resident memory of the process; None allows what the system allows.
        pixels: width x height of one image. Not adjustable: the memory for decoding grows with it.
        typed: checkpoints that a visitor may type in addition to the catalogue: "none", "hub" names, or also
            "folders" of the server.
    """

    images: int = 200
    captions: int = 50
    rows: int = 2_000
    file_bytes: int = 20 * MEGABYTE
    urls: int = 50
    url_seconds: float = 10.0
    urls_allowed: bool = True
    cache_bytes: int = 256 * MEGABYTE
    memory_bytes: int | None = None
    pixels: int = 50_000_000
    typed: Typed = "none"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """Read the ``CLIPDEMO_*`` variables.

        Raises:
            SettingError: a value that is not a positive number, not 0 or 1, or an unknown word.
        """
        return cls(
            images=int(_number(environment, "CLIPDEMO_MAX_IMAGES", cls.images)),
            captions=int(_number(environment, "CLIPDEMO_MAX_CAPTIONS", cls.captions)),
            rows=int(_number(environment, "CLIPDEMO_MAX_ROWS", cls.rows)),
            file_bytes=int(MEGABYTE * _number(environment, "CLIPDEMO_MAX_FILE_MB", 20.0)),
            urls=int(_number(environment, "CLIPDEMO_MAX_URLS", cls.urls)),
            url_seconds=_number(environment, "CLIPDEMO_URL_SECONDS", cls.url_seconds),
            urls_allowed=_switch(environment, "CLIPDEMO_ALLOW_URLS", cls.urls_allowed),
            cache_bytes=int(MEGABYTE * _number(environment, "CLIPDEMO_CACHE_MB", 256, least=4)),
            memory_bytes=int(MEGABYTE * _number(environment, "CLIPDEMO_MEMORY_MB", 0.0, least=100)) or None,
            typed=_typed(environment, "CLIPDEMO_TYPED_CHECKPOINTS", cls.typed),
        )


def format_bytes(count: int) -> str:
    """A number of bytes as text: "0.3 MB", "94 MB", "1.7 GB"."""
    if count >= 999_500_000:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 9_950_000 else f"{count / 1e6:.1f} MB"


def _number(environment: Mapping[str, str], name: str, default: float, least: float = 0) -> float:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    least = max(least, 1 if isinstance(default, int) else 1e-3)
    if not least <= value < 1e9:
        raise SettingError(f"{name} is {text!r}; it must be a number of at least {least:g}")
    return value


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    text = environment.get(name, "").strip().lower()
    if text in {"", "0", "1"}:
        return default if text == "" else text == "1"
    raise SettingError(f"{name} is {text!r}; it must be 0 or 1")


def _typed(environment: Mapping[str, str], name: str, default: Typed) -> Typed:
    text = environment.get(name, "").strip().lower()
    for word in get_args(Typed):
        if text == word:
            return word  # type: ignore[no-any-return]
    if text:
        raise SettingError(f"{name} is {text!r}; it must be one of {', '.join(get_args(Typed))}")
    return default
