"""Decodes mutants of small files of every format; ``python -m tests.security.fuzz_images [COUNT]``.

Each mutant goes the way of an upload: through the worker processes. Anything but an image or an ImageError,
more than five seconds, and more than a gigabyte are findings; each is kept in a folder.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from clipdemo.errors import ImageError
from clipdemo.images import pool
from clipdemo.limits import Limits
from tests.pictures import seed_files

LIMITS = Limits()
SECONDS, KILOBYTES = 5.0, 1_000_000
TOKENS = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xda",
    b"\xff\xe1",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to six changes: bytes, tokens, repeated, removed or swapped ranges; half of them in the header."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        end = len(mutant) if rng.random() < 0.5 else min(len(mutant), 200)
        at, length = rng.randint(0, end), rng.choice([0, 1, 1, 2, 4, 4, 8, 64])
        kind = rng.randrange(5)
        if kind == 0:
            new = rng.randbytes(length)
        elif kind == 1:
            new = rng.choice(TOKENS)
        elif kind == 2:
            new = bytes(mutant[at : at + length]) * rng.choice([2, 3, 50])
        elif kind == 3:
            new = b""
        else:
            other = rng.randint(0, end)
            new = bytes(mutant[other : other + length])
        mutant[at : at + length] = new
    return bytes(mutant[: rng.randint(0, len(mutant))] if rng.random() < 0.1 else mutant)


def fuzz(count: int, folder: Path, seed: int = 0) -> tuple[Counter[str], float, list[str]]:
    """Decode ``count`` mutants.

    Returns:
        How often each verdict was given, the seconds of the slowest, and the findings.
    """
    rng, seeds = random.Random(seed), seed_files()
    verdicts: Counter[str] = Counter()
    findings: list[str] = []

    def judge(data: bytes) -> tuple[str, float]:
        started = time.monotonic()
        try:
            pool.decode_image(data, "mutant", limits=LIMITS)
            verdict = "image"
        except ImageError as error:
            verdict = "worker lost" if "decoder failed" in str(error) else type(error).__name__
        except Exception as error:  # noqa: BLE001 - what the fuzzer looks for
            verdict = f"finding: {error!r}"
        return verdict, time.monotonic() - started

    slowest = 0.0
    mutants = (mutate(rng.choice(seeds), rng) for _ in range(count))
    with ThreadPoolExecutor(pool.WORKERS) as threads:
        while batch := list(islice(mutants, 500)):
            for data, (verdict, seconds) in zip(batch, threads.map(judge, batch), strict=True):
                verdicts[verdict] += 1
                slowest = max(slowest, seconds)
                if verdict == "worker lost" or verdict.startswith("finding") or seconds > SECONDS:
                    file = folder / f"{len(findings)}.bin"
                    file.write_bytes(data)
                    findings.append(f"{verdict} in {seconds:.1f} s: {file}")
    return verdicts, slowest, findings


def main(count: int) -> int:
    """Print what was tried and found; returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-images-"))
    started = time.monotonic()
    verdicts, slowest, findings = fuzz(count, folder)
    pool.close()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{count:,} mutants in {time.monotonic() - started:.0f} s: {dict(verdicts.most_common())}")
    print(f"slowest {slowest:.2f} s; largest worker {peak / 1000:.0f} MB; findings: {len(findings)}")
    print("\n".join(findings))
    return 1 if findings or peak > KILOBYTES else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
