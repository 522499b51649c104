"""How many bytes of files visitors may leave here: of one session, and of all sessions together."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime import get_instance
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from clipdemo.limits import MEGABYTE, format_bytes
from clipdemo.ui.state import session_id

SESSION_BYTES = 200 * MEGABYTE
TOTAL_BYTES = 600 * MEGABYTE
SESSION_FILES = 1_000
_UPLOAD = "/_stcore/upload_file/"


@dataclass(eq=False)  # referenced weakly and by identity
class Held:
    """Bytes of files that the app took over from Streamlit; they count until this object is gone.

    Attributes:
        session: Streamlit's id of the session that brought them.
        nbytes: held at present.
    """

    session: str
    nbytes: int


_held: weakref.WeakSet[Held] = weakref.WeakSet()
_guard = threading.Lock()  # scripts add in their threads while the server counts


def hold(nbytes: int) -> Held:
    """Count bytes of files against the session whose script runs in this thread."""
    held = Held(session_id(), nbytes)
    with _guard:
        _held.add(held)
    return held


def take_over(files: Collection[UploadedFile], most: int) -> tuple[list[tuple[str, bytes]], Held]:
    """Names and bytes of the first ``most`` files; Streamlit, which would keep them all, drops them."""
    taken = [(file.name, file.getvalue()) for file in list(files)[:most]]
    context = get_script_run_ctx()
    if context and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        for file in files:
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)
    return taken, hold(sum(len(data) for _, data in taken))


class UploadQuota:
    """Middleware that ends an upload which exceeds the quota, also one that lies about its length.

    Args:
        app: what answers the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._arriving: Counter[str] = Counter()  # bytes of uploads under way, by session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "PUT" or _UPLOAD not in scope["path"]:
            await self._app(scope, receive, send)
            return
        session, received = scope["path"].split(_UPLOAD)[1].split("/")[0], 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            count = len(message.get("body", b""))
            self._arriving[session] += count
            received += count
            self._check(session)
            return message

        try:
            with suppress(ClientDisconnect):  # would fill the log; nobody is there to be answered
                await self._app(scope, receive_counted, send)
        finally:
            self._arriving[session] -= received
            if not self._arriving[session]:
                del self._arriving[session]

    def _check(self, session: str) -> None:
        """Refuse what would exceed the quota.

        Raises:
            HTTPException: 413, which the browser shows beside the file.
        """
        manager = get_instance().uploaded_file_mgr
        assert isinstance(manager, MemoryUploadedFileManager)  # noqa: S101 - the server has no other
        files = list(manager.file_storage.get(session, {}).values())
        with _guard:
            held = [(each.session, each.nbytes) for each in _held]
        # An audit holds the files that are still in its widget: the same bytes, counted once.
        own = max(
            sum(len(file.data) for file in files), sum(count for owner, count in held if owner == session)
        )
        stored = sum(stat.byte_length for stats in manager.get_stats().values() for stat in stats)
        total = stored + sum(count for _, count in held) + self._arriving.total()
        if own + self._arriving[session] > SESSION_BYTES or len(files) >= SESSION_FILES:
            raise HTTPException(
                413,
                f"this session has {len(files):,} files with {format_bytes(own)} here; the limit is "
                f"{SESSION_FILES:,} and {format_bytes(SESSION_BYTES)}; wait until they are read",
            )
        if total > TOTAL_BYTES:
            raise HTTPException(413, "the files of all visitors fill this server; try again in some minutes")
