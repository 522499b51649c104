"""HTML reports from the templates in ``templates/``, and pictures as data URIs."""

from __future__ import annotations

import base64


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """A picture as a ``data:`` URI.

    Args:
        data: the picture's file.
        kind: its image type: "jpeg" or "png".
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
