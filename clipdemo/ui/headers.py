"""What the server tells browsers to refuse: headers on every response, and routes that stay closed."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipdemo.output.html import inline_script_hashes

# Memory and visitors of the process, computed anew for whoever asks: nothing that the page needs.
CLOSED = "/_stcore/metrics"
PERMISSIONS = (
    "camera=(self)",
    "microphone=()",
    "geolocation=()",
    "display-capture=()",
    "payment=()",
    "usb=()",
)
_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?")


class SecurityHeaders:
    """Middleware that adds the security headers and closes ``CLOSED``.

    Args:
        app: what answers the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy(host)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Permissions-Policy"] = ", ".join(PERMISSIONS)
            await send(message)

        closed = scope["path"].rstrip("/").endswith(CLOSED)
        answer = PlainTextResponse("Not found", 404) if closed else self._app
        await answer(scope, receive, send_with_headers)

    def _policy(self, host: str) -> str:
        """The Content-Security-Policy: no address but this server's, and no script but Streamlit's own files.

        Args:
            host: as the request names it; browsers whose ``'self'`` excludes websockets need it.
        """
        sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
        return "; ".join(
            [
                "default-src 'none'",
                f"script-src 'self' {self._inline_scripts}",
                # Streamlit's styles are written by scripts (emotion), Plotly's into attributes.
                "style-src 'self' 'unsafe-inline'",
                # data: thumbnails in Markdown; blob: charts saved as pictures.
                "img-src 'self' data: blob:",
                "font-src 'self' data:",
                "media-src 'self' blob:",
                f"connect-src 'self' data:{sockets}",  # data: the camera's picture, which the page reads back
                "manifest-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                # The sites that Streamlit takes for its host: a setting of Streamlit's own.
                f"frame-ancestors 'self' {' '.join(st.get_option('client.allowedOrigins'))}".strip(),
            ]
        )

    @cached_property
    def _inline_scripts(self) -> str:
        """Hashes of the scripts inside Streamlit's page."""
        page = Path(st.__file__).with_name("static") / "index.html"
        return inline_script_hashes(page.read_text("utf-8"))
