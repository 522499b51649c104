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
    """What one session may bring, and what the process may keep.

    Attributes:
        images: images in one workspace.
        captions: captions in one workspace.
        file_bytes: bytes of one image file, also of one fetched or unzipped one.
        rows: rows of one audited table.
        urls: URLs in one paste.
        url_seconds: seconds from asking for a URL to its last byte.
        urls_allowed: whether the server fetches URLs at all.
        cache_bytes: bytes of embeddings kept for all sessions together.
        memory_bytes: resident memory the process may grow to, where the host wants less than the system allows.
        pixels: width x height of one image; not adjustable, decoding memory grows with it.
        typed: which checkpoints a visitor may type beside those offered: "none", "hub" names, or "folders" of
            the server, too.
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
    typed: Typed = "hub"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """Read the ``CLIPDEMO_*`` variables.

        Raises:
            SettingError: a value that is not a number above zero, a switch that is not 0 or 1, or an unknown word.
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
