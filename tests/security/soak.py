"""Visitors come, work and vanish, also in the middle of uploads and audits: what do they leave behind?

``python -m tests.security.soak [VISITORS]`` starts the real server, sends visitors in hundreds and prints
memory, threads, open files and temporary files after each hundred, once their sessions have expired. It ends
with an error if a visitor saw something wrong, or a figure rose from one hundred to the next.
"""

from __future__ import annotations

import http.client
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

if __package__:  # run from the root of the checkout, not by pytest
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "e2e")]

import crowd
from browsing import running_server
from PIL import Image
from sessions import Session, multipart, upload_headers
from websockets.exceptions import ConnectionClosed

from clipdemo.models.catalogue import EMBEDDED
from clipdemo.ui.server import EXPIRY_SECONDS

TTL = 2  # seconds that a session of a visitor who left is kept here; 120 by default
SECONDS = 240.0  # that one thing may take
AT_ONCE = 40
KINDS = 5  # of what visitors do
HUNDRED = 100
UPLOADER = "Images or a zip"
# Allocators keep pages, and threads of a pool come and go; a leak of each session is far more in a hundred.
SLACK = {"megabytes": 60, "threads": 8, "descriptors": 8, "temporary": 0}


@dataclass(frozen=True)
class Left:
    """What the server has after its visitors left.

    Attributes:
        megabytes: resident.
        threads: of the process.
        descriptors: open files and sockets.
        temporary: files in its temporary folder.
    """

    megabytes: int
    threads: int
    descriptors: int
    temporary: int


def left(process: subprocess.Popen[bytes], temporary: Path) -> Left:
    """Count what the server has now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return Left(
        int(status["VmRSS"].split()[0]) // 1000,
        int(status["Threads"]),
        len(list(Path(f"/proc/{process.pid}/fd").iterdir())),
        sum(file.is_file() for file in temporary.rglob("*")),
    )


def settle(process: subprocess.Popen[bytes], temporary: Path, descriptors: int) -> Left:
    """Wait until the sessions have expired, which the count of open files tells."""
    until = time.monotonic() + 3 * (TTL + EXPIRY_SECONDS) + 60
    now = left(process, temporary)
    while now.descriptors > descriptors + SLACK["descriptors"] and time.monotonic() < until:
        time.sleep(1)
        now = left(process, temporary)
    time.sleep(5)  # the collector runs after the files are closed
    return left(process, temporary)


def visit(address: str, number: int, own: tuple[str, str], right: crowd.Answers) -> str:
    """One visitor: looks at the grid, then does one of five things and vanishes; returns what was wrong."""
    act = (_type_again, _bring, _break_off, _start_audit, _wait_for_audit)[number % KINDS]
    try:
        with Session(address, own, EMBEDDED) as session:
            wrong = list(crowd.wrong_in(next(session.grids(SECONDS)), right, own))
            act(session, address, number)
            if number % 3 == 0:
                session.vanish()
            return "; ".join(wrong + session.troubles)
    except (TimeoutError, ConnectionClosed, OSError) as error:
        return f"{act.__name__}: {type(error).__name__}: {error}"


def _type_again(session: Session, _address: str, number: int) -> None:
    wanted = [f"another caption of visitor {number}"]
    session.write_captions(wanted)
    next(grid for grid in session.grids(SECONDS) if list(grid.rankings) == wanted)


def _bring(session: Session, _address: str, number: int) -> None:
    picture = io.BytesIO()
    Image.effect_noise((900 + number, 700), 80).save(picture, "PNG")
    session.upload(UPLOADER, f"own-{number}.png", picture.getvalue())
    session.wait_for(", 1 of your own", SECONDS)  # two, if it saw another visitor's


def _break_off(session: Session, address: str, _number: int) -> None:
    """Leave in the middle of an upload."""
    body, kind = multipart("half.png", bytes(4_000_000))
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("PUT", session.request_upload("half.png").upload_url)
    for name, value in upload_headers(address, kind).items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[: len(body) // 2])
    time.sleep(0.2)
    connection.close()


def _start_audit(session: Session, _address: str, _number: int) -> None:
    session.open_page("audit")
    session.wait_for("swapped on purpose", SECONDS)
    session.press("Try an example under Embedded model")


def _wait_for_audit(session: Session, address: str, number: int) -> None:
    _start_audit(session, address, number)
    session.wait_for("**14 of 14 rows scored**", SECONDS)


def soak(visitors: int, each: int, at_once: int) -> tuple[list[Left], list[str]]:
    """Send visitors in groups; returns what was there before and after each group, and what went wrong.

    Args:
        visitors: all together.
        each: visitors in one group.
        at_once: of one group.
    """
    plans = [plan.captions[:2] for seed in range(-(-visitors // crowd.VISITORS)) for plan in _plans(seed)]
    everything = [crowd.Plan(EMBEDDED, plan, ()) for plan in plans]
    right = crowd.answers([EMBEDDED], everything)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    log, temporary = folder / "log", folder / "tmp"
    temporary.mkdir()
    settings = {
        "CLIPDEMO_CHECKPOINT": EMBEDDED,
        "STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": str(TTL),
        "TMPDIR": str(temporary),
    }
    with running_server(log, **settings) as (address, process), ThreadPoolExecutor(at_once) as pool:

        def go(number: int) -> str:
            return visit(address, number, plans[number % len(plans)], right)

        figures, troubles = [left(process, temporary)], list[str]()
        for start in range(0, visitors, each):
            troubles += pool.map(go, range(start, min(start + each, visitors)))
            figures.append(settle(process, temporary, figures[0].descriptors))
            print(f"after {start + each} visitors: {figures[-1]}", flush=True)
    if "Traceback" in log.read_text("utf-8"):
        troubles.append(f"the log has a traceback:\n{log.read_text('utf-8')}")
    shutil.rmtree(folder)
    return figures, [trouble for trouble in troubles if trouble]


def _plans(seed: int) -> list[crowd.Plan]:
    return crowd.plans([EMBEDDED], [str(seed)], seed)


def rises(figures: Sequence[Left]) -> list[str]:
    """The figures that rise from group to group, after the first one."""
    return [
        f"{field.name} rise: {[getattr(each, field.name) for each in figures]}"
        for field in fields(Left)
        if getattr(figures[-1], field.name)
        > max(getattr(each, field.name) for each in figures[1:-1] or figures) + SLACK[field.name]
    ]


def main() -> None:
    """Run the long form."""
    visitors = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    figures, troubles = soak(visitors, HUNDRED, AT_ONCE)
    print(f"before: {figures[0]}")
    print("\n".join(troubles + rises(figures)) or "no visitor saw anything wrong, and nothing rises")
    sys.exit(bool(troubles or rises(figures)))


if __name__ == "__main__":
    main()
