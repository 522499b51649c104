"""requirements.lock is in step with requirements.txt; nothing is asked of the network."""

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
AGAIN = "; run: make lock"


@dataclass(frozen=True)
class Locked:
    """One entry of the lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]


def locked():
    statements = re.sub(r"\\\n", " ", re.sub(r"(?m)^ *#.*\n", "", LOCK)).splitlines()
    for statement in statements:
        requirement = Requirement(statement.partition(" --hash")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        name = canonicalize_name(requirement.name)
        yield Locked(name, pin.version, requirement.marker, tuple(re.findall(r"--hash=(\S+)", statement)))


ENTRIES = list(locked())
HERE = {entry.name: entry for entry in ENTRIES if entry.marker is None or entry.marker.evaluate()}


def pins(file):
    lines = (line.partition(" #")[0].strip() for line in (ROOT / file).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


@pytest.mark.parametrize("pin", pins("requirements.txt"), ids=str)
def test_every_requirement_is_locked_at_its_version(pin):
    entries = [entry for entry in ENTRIES if entry.name == canonicalize_name(pin.name)]
    assert [str(pin.specifier)] == [f"=={entry.version}" for entry in entries], AGAIN
    assert entries[0].marker == pin.marker, AGAIN


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned(file):
    assert not [str(pin) for pin in pins(file) if not re.fullmatch(r"==[\w.]+", str(pin.specifier))]


def test_every_locked_file_has_a_sha256_and_no_address():
    assert len(ENTRIES) > 50
    for entry in ENTRIES:
        assert entry.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in entry.hashes), entry.name
    assert not re.search(r"://|^-", LOCK, re.MULTILINE)


def test_every_indirect_dependency_is_locked_at_a_version_that_fits():
    missing, open_names, seen = [], [canonicalize_name(pin.name) for pin in pins("requirements.txt")], set()
    while open_names:
        name = open_names.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except (
            PackageNotFoundError
        ):  # of another system, or not needed by the build of torch that is installed
            continue
        for requirement in needed:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                entry = HERE.get(canonicalize_name(requirement.name))
                if entry is None or not requirement.specifier.contains(entry.version, prereleases=True):
                    missing.append(f"{name} needs {requirement}")
                open_names.append(canonicalize_name(requirement.name))
    assert not missing, [*missing, AGAIN]
    assert len(seen) > 40
