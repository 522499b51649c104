"""A visitor without a browser: one session of the running app over Streamlit's own websocket protocol.

It sends what the browser's code sends, the timed reruns of fragments included, and keeps the elements it is
sent, so that many visitors at once cost next to nothing beside the server they visit.
"""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Common_pb2 import FileUploaderState, FileURLs
from streamlit.proto.Delta_pb2 import Delta
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

CAPTIONS, CHECKPOINT = "One caption a line", "Checkpoint"  # labels of the two widgets
_FOOT = "Scored under **"  # the line below a grid, the last of it to come
_PARTIAL = "images encoded so far"
_TILE = re.compile(r"\*\*(\d+)\*\*&ensp;(.+)  \npercentile .+  \ncosine (-?\d\.\d{3})")  # below each picture
_FAILED = "is not available:"
_MAIN = 0  # first number of the paths of the page; the sidebar's is another


@dataclass(frozen=True)
class Tile:
    """One image of a grid.

    Attributes:
        rank: from 1; like the others, as written below the picture.
        name: of the file.
        cosine: to three decimals.
    """

    rank: int
    name: str
    cosine: float


@dataclass(frozen=True)
class Grid:
    """What the Rank page says once all images are ranked.

    Attributes:
        checkpoint: title, as the line below the grid has it.
        rankings: tiles by the caption they stand under, in the order on the page.
    """

    checkpoint: str
    rankings: dict[str, list[Tile]]


class Session:
    """One visitor, from opening a link to leaving.

    Args:
        address: of the app, "http://host:port".
        captions: in the link.
        checkpoint: in the link; its public id.

    Attributes:
        troubles: error boxes, exceptions and checkpoints that failed, as the page words them.
    """

    def __init__(self, address: str, captions: Sequence[str], checkpoint: str) -> None:
        self.troubles: list[str] = []
        self._query = {"captions": "\n".join(captions), "checkpoint": checkpoint}
        self._ids: dict[str, str] = {}  # of the widgets, by label
        self._values: dict[str, str] = {}  # by id; a browser sends them with every rerun
        self._files: dict[str, FileUploaderState] = {}  # in upload widgets, by id
        self._pages: dict[str, str] = {}  # hashes by path
        self._address, self.id = address, ""
        self._elements: dict[tuple[int, ...], Element] = {}
        self._page = ""
        self._intervals: dict[str, float] = {}  # of fragments that run again by themselves
        self._due: dict[str, float] = {}
        stream = address.replace("http", "ws", 1) + "/_stcore/stream"
        # The largest message is a font or theme of some kilobytes, but a grid must never end the visit.
        self._open = ExitStack()
        self._socket = self._open.enter_context(
            connect(stream, subprotocols=["streamlit"], max_size=None, compression=None)  # type: ignore[list-item]
        )
        self._rerun()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def write_captions(self, captions: Sequence[str]) -> None:
        """Replace what is in the captions box and apply it."""
        self._query["captions"] = self._values[self._ids[CAPTIONS]] = "\n".join(captions)
        self._rerun()

    def choose(self, checkpoint: str) -> None:
        """Choose in the picker, or type into it."""
        self._values[self._ids[CHECKPOINT]] = checkpoint
        self._rerun()

    def vanish(self) -> None:
        """Cut the connection without a word."""
        self._socket.socket.shutdown(socket.SHUT_RDWR)

    def open_page(self, path: str) -> None:
        """Follow a link of the navigation."""
        self._page = self._pages[path]
        self._rerun()

    def press(self, label: str) -> None:
        """Press a button."""
        self._rerun(pressed=self._ids[label])

    def send(self, message: BackMsg) -> None:
        """Send any message, as a browser under someone's control may."""
        self._socket.send(message.SerializeToString())

    def upload(self, label: str, name: str, data: bytes) -> None:
        """Put a file into an upload widget; the page takes it over in the next run.

        Raises:
            urllib.error.HTTPError: the server refused it.
        """
        urls = self.request_upload(name)
        body, kind = multipart(name, data)
        headers = upload_headers(self._address, kind)
        request = urllib.request.Request(f"{self._address}{urls.upload_url}", body, headers, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        state = FileUploaderState()
        state.uploaded_file_info.add(file_id=urls.file_id, file_urls=urls, name=name, size=len(data))
        self._files = {self._ids[label]: state}
        self._rerun()
        self._files = {}

    def request_upload(self, name: str) -> FileURLs:
        """Where a file may be sent to."""
        message = BackMsg()
        message.file_urls_request.request_id = name
        message.file_urls_request.file_names.append(name)
        self.send(message)
        urls: FileURLs = self._until(lambda answer: answer.file_urls_response.file_urls, 60)[0]
        return urls

    def wait_for(self, words: str, seconds: float) -> None:
        """Wait until these words are on the page."""
        if words not in self._all_words():
            self._until(lambda _: words in self._all_words(), seconds)

    def _until(self, found: Callable[[ForwardMsg], Any], seconds: float) -> Any:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                data = self._socket.recv(timeout=left)
            except TimeoutError:
                break
            assert isinstance(data, bytes)
            message = ForwardMsg.FromString(data)
            self._take(message)
            answer = found(message)
            if answer:
                return answer
        raise TimeoutError(f"nothing as wanted within {seconds:g} s; the page says: {self._words()}")

    def _all_words(self) -> str:
        return "\n".join(
            element.markdown.body or element.alert.body or element.button.label
            for element in self._elements.values()
        )

    def grids(self, seconds: float) -> Iterator[Grid]:
        """Every complete grid as it comes, of old runs of the script, too.

        Raises:
            TimeoutError: when ``seconds`` are over; it says what is on the page then.
        """
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            for fragment in [fragment for fragment, due in self._due.items() if due <= now]:
                self._due[fragment] = now + self._intervals[fragment]
                self._rerun(fragment)
            try:
                data = self._socket.recv(timeout=max(0.0, min([until, *self._due.values()]) - now))
            except TimeoutError:
                continue
            assert isinstance(data, bytes)
            if self._take(ForwardMsg.FromString(data)):
                grid = self._grid()
                if grid:
                    yield grid
        raise TimeoutError(f"no grid as wanted within {seconds:g} s; the page says: {self._words()}")

    def _rerun(self, fragment: str = "", *, pressed: str = "") -> None:
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string = urlencode(self._query)
        asked.page_script_hash = self._page
        asked.fragment_id, asked.is_auto_rerun = fragment, bool(fragment)
        for widget, value in self._values.items():
            asked.widget_states.widgets.add(id=widget, string_value=value)
        for widget, files in self._files.items():
            asked.widget_states.widgets.add(id=widget, file_uploader_state_value=files)
        if pressed:
            asked.widget_states.widgets.add(id=pressed, trigger_value=True)
        self._socket.send(message.SerializeToString())

    def _take(self, message: ForwardMsg) -> bool:
        """Take over what a message says; whether it is the end of a grid."""
        kind = message.WhichOneof("type")
        if kind == "navigation":
            self._page = message.navigation.page_script_hash
            self._pages = {page.url_pathname: page.page_script_hash for page in message.navigation.app_pages}
        elif kind == "new_session":
            self.id = message.new_session.initialize.session_id
            if not message.metadata.run.fragment_ids:  # at the end of a run, only what it sent is on the page
                self._elements.clear()
                self._intervals.clear()
                self._due.clear()
        elif kind == "page_info_changed":
            self._query = dict(parse_qsl(message.page_info_changed.query_string))
        elif kind == "auto_rerun":
            again = message.auto_rerun
            if self._intervals.get(again.fragment_id) != again.interval:
                self._intervals[again.fragment_id] = again.interval
                self._due[again.fragment_id] = time.monotonic() + again.interval
        elif kind == "stop_auto_rerun":
            for fragment in message.stop_auto_rerun.fragment_ids:
                self._intervals.pop(fragment, None)
                self._due.pop(fragment, None)
        elif kind == "delta":
            return self._draw(tuple(message.metadata.delta_path), message.delta)
        return False

    def _draw(self, path: tuple[int, ...], delta: Delta) -> bool:
        if delta.WhichOneof("type") == "new_transient":  # a spinner over what is there
            return False
        for old in [old for old in self._elements if old[: len(path)] == path]:
            del self._elements[old]
        if delta.WhichOneof("type") != "new_element":
            return False
        element = self._elements[path] = delta.new_element
        kind = element.WhichOneof("type")
        if kind in {"text_area", "button", "file_uploader"}:
            widget = getattr(element, kind)
            self._ids[widget.label] = widget.id
        elif kind == "selectbox":
            self._ids[element.selectbox.label] = element.selectbox.id
            if element.selectbox.set_value:
                self._values[element.selectbox.id] = element.selectbox.raw_value
        elif kind == "exception":
            self.troubles.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == Alert.ERROR:
            self.troubles.append(element.alert.body)
        elif kind == "markdown" and _FAILED in element.markdown.body:
            self.troubles.append(element.markdown.body)
        return kind == "markdown" and element.markdown.body.startswith(_FOOT)

    def _grid(self) -> Grid | None:
        """The grid on the page; None while images are missing in it."""
        checkpoint, rankings, caption = "", dict[str, list[Tile]](), ""
        for path, element in sorted(self._elements.items(), key=itemgetter(0)):
            if path[0] != _MAIN:
                continue
            text = element.markdown.body
            if _PARTIAL in text:
                return None
            if text.startswith("#### "):
                caption = _unescaped(text.removeprefix("#### "))
                rankings[caption] = []
            elif text.startswith(_FOOT):
                checkpoint = _unescaped(text.removeprefix(_FOOT).split("**")[0])
            tile = _TILE.fullmatch(text)
            if tile:
                rankings[caption].append(Tile(int(tile[1]), _unescaped(tile[2]), float(tile[3])))
        pictures = sum(element.markdown.body.startswith("![") for element in self._elements.values())
        assert pictures == sum(map(len, rankings.values())), "a tile does not read as expected"
        return Grid(checkpoint, rankings)

    def _words(self) -> str:
        bodies = (element.markdown.body or element.alert.body for element in self._elements.values())
        return " | ".join(body[:80] for body in bodies if body)


def multipart(name: str, data: bytes) -> tuple[bytes, str]:
    """The body of an upload and its Content-Type."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def upload_headers(address: str, kind: str) -> dict[str, str]:
    """What the page's script sends with a file: its type, and the token that the server gave."""
    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=60) as answer:
        token = answer.headers["Set-Cookie"].split(";")[0].partition("=")[2]
    return {"Content-Type": kind, "X-Xsrftoken": token, "Cookie": f"_streamlit_xsrf={token}"}


def _unescaped(markdown: str) -> str:
    """Text as it was before the page escaped it; ``views.plain`` backwards."""
    return re.sub(r"\\(.)", r"\1", markdown.replace("\u2060", ""))
