"""The server around the page: it checks the settings, guards every connection, and ends what has expired."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

from google.protobuf.message import DecodeError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnected
from streamlit import net_util
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.runtime import get_instance

from clipdemo.errors import SettingError
from clipdemo.escape import escape_logs
from clipdemo.images import pool
from clipdemo.limits import Limits
from clipdemo.memory import give_back
from clipdemo.ui.headers import SecurityHeaders
from clipdemo.ui.quota import UploadQuota

EXPIRY_SECONDS = 10.0  # between two looks for sessions whose time to come back is over
END_SECONDS = 5  # from SIGTERM until the system ends the process
# What a page needs. The others drop caches that all visitors share, or name files of the server.
MESSAGES = frozenset(
    {"rerun_script", "stop_script", "app_heartbeat", "file_urls_request", "backend_operation_request"}
)
MAX_FILE_URLS = 10_000  # of one message; a browser asks for one for each file of a dropped folder


def check_settings() -> None:
    """End the process, with one sentence, if a ``CLIPDEMO_*`` variable has an unusable value."""
    try:
        Limits.from_environment()
    except SettingError as error:
        sys.exit(f"clipdemo cannot start: {error}")


def middleware() -> list[Middleware]:
    """What every connection passes, outermost first."""
    # For each connection with a foreign Origin, Streamlit asks the internet for this machine's address, on
    # the event loop: without an answer nobody is served for up to 20 seconds. All its other rules stay.
    net_util.get_external_ip = lambda: None
    return [Middleware(SecurityHeaders), Middleware(UploadQuota), Middleware(KnownMessages)]


class KnownMessages:
    """Middleware that drops messages of a browser that the page does not need.

    Args:
        app: what serves the websocket.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def receive_known() -> Message:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive" or _is_known(message.get("bytes") or b""):
                    return message

        # Raised where a visitor leaves while something is sent; Streamlit has ended the session by then.
        with suppress(WebSocketDisconnected):
            await self._app(scope, receive_known if scope["type"] == "websocket" else receive, send)


def _is_known(data: bytes) -> bool:
    try:
        message = BackMsg.FromString(data)
    except DecodeError:
        return True  # Streamlit ends such a connection
    if len(message.file_urls_request.file_names) > MAX_FILE_URLS:
        return False
    return message.WhichOneof("type") in {*MESSAGES, None}


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Expire sessions while the server runs; end what outlives it."""
    escape_logs()
    _end_in_time(signal.SIGTERM)
    expiry = asyncio.create_task(_expire_sessions())
    try:
        yield
    finally:
        expiry.cancel()
        with suppress(asyncio.CancelledError):
            await expiry
        pool.close()


async def _expire_sessions() -> None:
    """Release sessions whose visitors left; Streamlit itself does so only when another visitor leaves."""
    # Streamlit has no public way to its session storage.
    sessions = get_instance()._session_mgr._session_storage._cache  # type: ignore[attr-defined]
    while True:
        await asyncio.sleep(EXPIRY_SECONDS)
        expired = [info.session for _, info in sessions.expire()]
        for session in expired:
            session.shutdown()
        if expired:
            # They are part of reference cycles, and full collections are rare: see postScriptGC.
            expired.clear()
            del session
            await asyncio.to_thread(give_back)


def _end_in_time(signal_number: int) -> None:
    """Bound the time between a signal and the end: without it, uploads that stand still are waited for."""
    if not hasattr(signal, "alarm"):  # Windows
        return
    before = signal.getsignal(signal_number)

    def end(number: int, frame: FrameType | None) -> None:
        signal.alarm(END_SECONDS)
        if callable(before):
            before(number, frame)

    signal.signal(signal_number, end)
