"""Downloads one file of a hub checkpoint into the cache: streams, resumes, verifies, and translates errors.

``snapshot`` decides which files and where. Files are streamed over plain HTTP rather than by
``hf_hub_download``, which discards a partial file when it fails, gives up on a connection reset, does not
compare checksums, can wait for minutes on a silent hub, and may switch to the Xet downloader, whose timeouts
cannot be set from here.
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
from clipdemo.models.hub.connection import CONNECT_SECONDS, NO_HUB, endpoint, open_answer

STALL_SECONDS = 60.0  # without a new byte until a download gives up
READ_SECONDS = 20.0  # without a new byte until a connection is replaced; a new one often works
RETRY_SECONDS = 1.0  # pause before a new connection, doubled up to 8 s while no bytes come
MAX_CONNECTIONS = 30  # per file
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)

OFFLINE = "offline mode is on (HF_HUB_OFFLINE) and {name} is not on this disk; unset it to download"
_STALLED = (
    "the Hugging Face hub stopped answering ({reason}); the partial download is kept, so try again later"
)
_NOT_FOUND = (
    "{name} is not a public checkpoint on the hub; check the spelling, owner/name (a private one needs "
    "HF_TOKEN)"
)
_NO_REVISION = "revision {revision} of {name} does not exist on the hub; use a branch, tag or full commit"
_NO_ACCESS = (
    "{name} can only be downloaded with an account: accept its licence on its hub page, then start clipdemo "
    "with HF_TOKEN set to an access token of that account"
)
_NO_FILE = "the hub lists a file of {name} that does not exist; try again, or another revision"
_REFUSALS = {401: _NO_ACCESS, 403: _NO_ACCESS, 404: _NOT_FOUND}  # by HTTP status


@dataclass(frozen=True)
class Progress:
    """Bytes downloaded, and bytes in total."""

    done: int
    total: int


@dataclass(frozen=True)
class File:
    """One file in the top folder of a repository, as the hub lists it.

    Attributes:
        size: bytes.
        digest: SHA-256 of a large file, git's SHA-1 of a small one; also the name of its blob in the cache.
    """

    name: str
    size: int
    digest: str


class Meter:
    """Reports the progress of a download, never backwards, and detects a stall.

    Args:
        total: bytes of all files.
        on_progress: called at most ten times a second.
    """

    def __init__(self, total: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._total, self._on_progress = total, on_progress
        self._finished_bytes = 0
        self._reported, self._reported_at = -1, 0.0
        self._size, self._grown_at = 0, time.monotonic()

    def start_file(self) -> None:
        """Start the next file and restart the stall timeout."""
        self._size, self._grown_at = 0, time.monotonic()
        self.update(0)

    def update(self, size: int) -> None:
        """Note the size of the current file, changed or not."""
        now = time.monotonic()
        if size != self._size:
            self._size, self._grown_at = size, now
        done = min(self._finished_bytes + size, self._total)
        due = now - self._reported_at >= 0.1 or done == self._total  # the last report is never skipped
        if self._on_progress and done > self._reported and due:
            self._reported, self._reported_at = done, now
            self._on_progress(Progress(done, self._total))

    def finish_file(self, size: int) -> None:
        """Count the current file as complete."""
        self.update(size)
        self._finished_bytes += size

    @property
    def stalled(self) -> bool:
        """Whether the current file has not grown for ``STALL_SECONDS``."""
        return time.monotonic() - self._grown_at >= STALL_SECONDS


def download_file(name: str, commit: str, file: File, blob: Path, meter: Meter, *, with_token: bool) -> None:
    """Store a verified file as ``blob``; a second session waits for it and reports the same progress."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name, file.name, revision=commit, endpoint=endpoint())
    part = _part(blob)
    blob.parent.mkdir(parents=True, exist_ok=True)
    meter.start_file()
    with _file_lock(part, meter):
        if not blob.is_file() or _digest(blob, file) != file.digest:
            blob.unlink(missing_ok=True)
            _stream(url, file, part, meter, with_token=with_token)
            _verify(name, file, part, blob)
    meter.finish_file(file.size)


@contextmanager
def _file_lock(part: Path, meter: Meter) -> Iterator[None]:
    """Lock ``part`` against other threads and processes; reports the progress of the one that has it."""
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
                meter.update(part.stat().st_size if part.exists() else 0)
            if meter.stalled:
                raise HubUnreachableError(_STALLED.format(reason="another download of the same file hangs"))
        yield


def missing_bytes(file: File, blob: Path) -> int:
    """Bytes of ``file`` that are still to be downloaded; an existing blob counts as complete."""
    if blob.exists():
        return 0
    part = _part(blob)
    return max(file.size - (part.stat().st_size if part.exists() else 0), 0)


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.clipdemo")


def _verify(name: str, file: File, part: Path, blob: Path) -> None:
    if _digest(part, file) != file.digest:
        part.unlink()
        raise CorruptCheckpointError(
            f"{file.name} of {name} arrived broken (its checksum is wrong) and was removed; try again"
        )
    os.replace(part, blob)


def _digest(path: Path, file: File) -> str:
    """The digest as the hub lists it: SHA-256 of a large file, git's blob name of a small one."""
    large = len(file.digest) == 64
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size)  # noqa: S324
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _stream(url: str, file: File, part: Path, meter: Meter, *, with_token: bool) -> None:
    """Complete ``part``, with a new connection after each failure until a limit is reached."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    part.touch()
    pause, reason = RETRY_SECONDS, "connections keep breaking"
    for _ in range(MAX_CONNECTIONS):
        before = part.stat().st_size
        try:
            _append(url, file.size, part, meter, with_token=with_token)
        except HfHubHTTPError as error:
            if error.response.status_code not in RETRY_STATUSES:
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


def _append(url: str, size: int, part: Path, meter: Meter, *, with_token: bool) -> None:
    """Append the rest of the file to ``part``, over one connection."""
    import httpx2
    from huggingface_hub import hf_raise_for_status

    present = part.stat().st_size
    if present >= size:
        return
    headers = {"Range": f"bytes={present}-"} if present else {}
    timeout = httpx2.Timeout(min(READ_SECONDS, STALL_SECONDS), connect=CONNECT_SECONDS)
    with open_answer(url, timeout, with_token=with_token, headers=headers) as response:
        hf_raise_for_status(response)
        # A server without range support sends 200 and the whole file.
        with part.open("ab" if response.status_code == 206 else "wb") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
                meter.update(out.tell())
                if out.tell() > size:  # too long an answer; the checksum will refuse it
                    return


@contextmanager
def translate_hub_errors(name: str, revision: str) -> Iterator[None]:
    """Turn errors of the hub client and of the disk into ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:  # a subclass of the next one
        raise CheckpointNotFoundError(_NO_ACCESS.format(name=name)) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointNotFoundError(_NOT_FOUND.format(name=name)) from error
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
            f"{name} cannot be saved in the model cache ({reason}); make room there, or set HF_HOME to a "
            "writable folder"
        ) from error


def _reason(error: BaseException) -> str:
    """Why the network failed, in a few words; the system's own error is in the chain of causes."""
    import httpx2

    reasons = (
        (socket.gaierror, "its name cannot be resolved"),
        (ConnectionRefusedError, "connection refused"),
        (ConnectionResetError, "connection broken"),
        (ssl.SSLError, "its certificate cannot be checked"),
        (TimeoutError, "no answer in time"),
        (httpx2.RemoteProtocolError, "connection broken"),
    )
    cause: BaseException | None = error
    while cause:
        for kind, reason in reasons:
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    return str(error)[:100] or "connection broken"
