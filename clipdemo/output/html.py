"""HTML reports from the templates in ``templates/``, and pictures as data URIs.

The template engine escapes every value. A Content-Security-Policy in every report blocks requests and foreign
scripts, whatever a caption or file name contains.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: object) -> str:
    """A report as one HTML file.

    Args:
        template: file name in ``templates/``.
        **values: the template's variables; text is escaped.
    """
    return _environment.get_template(template).render(values)


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """A picture as a ``data:`` URI.

    Args:
        data: the picture's file.
        kind: its image type: "jpeg" or "png".
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def inline_script_hashes(markup: str) -> str:
    """The sources of a ``script-src`` directive that allow exactly the inline scripts of some markup.

    Args:
        markup: trusted.
    """
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", markup, re.DOTALL)
    return " ".join(_hash_source(script) for script in scripts)


def _hash_source(text: str) -> str:
    """A Content-Security-Policy source that allows exactly this inline script or style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _figure(value: object, decimals: int = 1) -> str:
    """A table cell: floats rounded, None as a dash, anything else as text."""
    if value is None:
        return "–"
    return f"{value:,.{decimals}f}" if isinstance(value, float) else str(value)


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["figure"] = _figure
_environment.globals["style_hash"] = _hash_source(render("style.css"))
