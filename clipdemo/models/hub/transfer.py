"""One file of a hub checkpoint on its way into the cache: streamed, resumed, checked; and failures put into words.

``hub`` decides which files and where. The bytes are streamed here, over plain HTTP, and not by ``hf_hub_download``:
that one throws a partial file away when it fails, gives up on a connection reset, compares no checksum, can wait for
minutes on a silent hub, and may hand over to the Xet downloader, whose timeouts cannot be set from here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    HubUnreachableError,
)

STALL_SECONDS = 60.0  # without one new byte, until a download gives up
READ_SECONDS = 20.0  # without one new byte, until a connection is replaced: a fresh one often goes on
CONNECT_SECONDS = 10.0  # also the patience with the hub's first answer
RETRY_SECONDS = 1.0  # pause before a new connection, doubled up to 8 s while nothing comes
CONNECTIONS = 30  # per file, however much each of them brought
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)  # worth another try while files are streamed

OFFLINE = "offline mode is on (HF_HUB_OFFLINE) and {name} is not on this disk; unset it to download"
NO_HUB = "the Hugging Face hub does not answer ({reason}); check the connection, or take the embedded model"
_STALLED = "the Hugging Face hub stopped answering ({reason}); what came is kept, so try again later"
_ABSENT = (
    "the hub has no public checkpoint {name}; check the spelling, owner/name (a private one needs HF_TOKEN)"
)
_NO_REVISION = "{name} has no revision {revision} on the hub; use a branch, tag or full commit"
_NO_ACCESS = (
    "the hub does not hand {name} out without an account: accept its licence on its hub page, then start "
    "clipdemo with HF_TOKEN set to an access token of that account"
)
_NO_FILE = "a file of {name} that the hub lists is not there; try again, or another revision"
_REFUSALS = {401: _NO_ACCESS, 403: _NO_ACCESS, 404: _ABSENT}  # by HTTP status


@dataclass(frozen=True)
class Progress:
    """Bytes that are here, and bytes in all."""

    done: int
    total: int


@dataclass(frozen=True)
class File:
    """What the hub says about one file.

    Attributes:
        name: in the top folder of the repository.
        size: bytes.
        digest: SHA-256 of a large file, git's SHA-1 of a small one; the cache names its blobs so.
    """

    name: str
    size: int
    digest: str


class Meter:
    """Reports progress that never runs backwards, and knows when the last byte came."""

    def __init__(self, total: int, report: Callable[[Progress], None] | None) -> None:
        self._total, self._report = total, report
        self._finished, self._shown, self._shown_at = 0, -1, 0.0
        self._size, self._moved_at = 0, time.monotonic()

    def start(self) -> None:
        """A new file: patience starts again."""
        self._size, self._moved_at = 0, time.monotonic()
        self.at(0)

    def at(self, size: int) -> None:
        """The file at hand has grown to ``size`` bytes, or is still that long."""
        now = time.monotonic()
        if size != self._size:
            self._size, self._moved_at = size, now
        done = min(self._finished + size, self._total)
        # Ten reports a second are plenty, but the last is never left out.
        due = now - self._shown_at >= 0.1 or done == self._total
        if self._report and done > self._shown and due:
            self._shown, self._shown_at = done, now
            self._report(Progress(done, self._total))

    def finish(self, size: int) -> None:
        """The file at hand is here, all ``size`` bytes of it."""
        self.at(size)
        self._finished += size

    @property
    def stalled(self) -> bool:
        """Whether nothing has come for too long."""
        return time.monotonic() - self._moved_at >= STALL_SECONDS


def bring(name: str, commit: str, file: File, blob: Path, meter: Meter, *, endpoint: str) -> None:
    """Put one checked file under its digest; a second session that wants it waits and sees its progress."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name, file.name, revision=commit, endpoint=endpoint)
    part = _part(blob)
    blob.parent.mkdir(parents=True, exist_ok=True)
    meter.start()
    with _alone(part, meter):
        if not blob.is_file() or _digest(blob, file) != file.digest:
            blob.unlink(missing_ok=True)
            _fetch(url, file, part, meter)
            _accept(name, file, part, blob)
    meter.finish(file.size)


@contextmanager
def _alone(part: Path, meter: Meter) -> Iterator[None]:
    """Hold the lock on ``part``, also against other processes."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    repo = part.parent.parent
    lock = repo.parent / ".locks" / repo.name / f"{part.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(WeakFileLock(lock, timeout=0.5))
                break
            except TimeoutError:
                meter.at(part.stat().st_size if part.exists() else 0)
            if meter.stalled:
                raise HubUnreachableError(_STALLED.format(reason="another download of it hangs"))
        yield


def missing_bytes(file: File, blob: Path) -> int:
    """How much of ``file`` is still to come; a blob that is here counts as whole."""
    if blob.exists():
        return 0
    part = _part(blob)
    return max(file.size - (part.stat().st_size if part.exists() else 0), 0)


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.clipdemo")


def _accept(name: str, file: File, part: Path, blob: Path) -> None:
    if _digest(part, file) != file.digest:
        part.unlink()
        raise CorruptCheckpointError(
            f"{file.name} of {name} arrived broken (its checksum is wrong) and was removed; try again"
        )
    os.replace(part, blob)


def _digest(path: Path, file: File) -> str:
    """SHA-256 as the hub gives it for large files, or what git calls a small one."""
    large = len(file.digest) == 64
    # SHA-1 because git's blob names are made of it.
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size)  # noqa: S324
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url: str, file: File, part: Path, meter: Meter) -> None:
    """Complete ``part``, over as many connections as it takes within the limits."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    part.touch()
    pause, reason = RETRY_SECONDS, "connections keep breaking"
    for _ in range(CONNECTIONS):
        before = part.stat().st_size
        try:
            _append(url, file.size, part, meter)
        except HfHubHTTPError as error:
            if error.response.status_code not in PASSING_STATUS:
                raise
            reason = f"error {error.response.status_code}"
        except httpx2.TransportError as error:
            reason = _reason(error)
        if part.stat().st_size >= file.size:
            return
        if meter.stalled:
            break
        pause = RETRY_SECONDS if part.stat().st_size > before else min(pause * 2, 8.0)
        time.sleep(pause)
    raise HubUnreachableError(_STALLED.format(reason=reason))


def _append(url: str, size: int, part: Path, meter: Meter) -> None:
    """One connection: add to ``part`` what is missing."""
    import httpx2
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    have = part.stat().st_size
    if have >= size:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # offsets must count plain bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    patience = httpx2.Timeout(min(READ_SECONDS, STALL_SECONDS), connect=CONNECT_SECONDS)
    request = get_session().stream("GET", url, headers=headers, timeout=patience, follow_redirects=True)
    with request as response:
        hf_raise_for_status(response)
        # A server that knows no ranges sends 200 and the whole file.
        with part.open("ab" if response.status_code == 206 else "wb") as out:
            for chunk in response.iter_bytes():
                out.write(chunk)
                meter.at(out.tell())
                if out.tell() > size:  # an endless answer; the checksum will refuse it
                    return


@contextmanager
def translate_hub_errors(name: str, revision: str) -> Iterator[None]:
    """Turn what the hub client and the disk raise into our own errors."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:  # before its parent
        raise CheckpointNotFoundError(_NO_ACCESS.format(name=name)) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointNotFoundError(_ABSENT.format(name=name)) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointNotFoundError(_NO_REVISION.format(name=name, revision=revision)) from error
    except errors.RemoteEntryNotFoundError as error:
        raise CheckpointNotFoundError(_NO_FILE.format(name=name)) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnreachableError(OFFLINE.format(name=name)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in _REFUSALS:
            raise CheckpointNotFoundError(_REFUSALS[status].format(name=name)) from error
        raise HubUnreachableError(NO_HUB.format(reason=f"error {status}")) from error
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise HubUnreachableError(NO_HUB.format(reason=_reason(error))) from error
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise CheckpointError(
            f"{name} cannot be saved in the model cache ({reason}); make room there, or set HF_HOME to a folder that can "
            "be written"
        ) from error


def _reason(error: BaseException) -> str:
    """Why the network failed, in short words; the system's own error is somewhere in the chain of causes."""
    import httpx2

    causes = [error]
    while inner := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(inner)
    words = (
        (socket.gaierror, "its name cannot be resolved"),
        (ConnectionRefusedError, "connection refused"),
        (ConnectionResetError, "connection broken"),
        (ssl.SSLError, "its certificate cannot be checked"),
        (TimeoutError, "no answer in time"),
        (httpx2.RemoteProtocolError, "connection broken"),
    )
    found = (said for cause in causes for kind, said in words if isinstance(cause, kind))
    return next(found, str(error)[:100] or "connection broken")
