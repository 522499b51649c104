"""The documents point only at files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "clipdemo/models/embedded/README.md",
    ROOT / "benchmarks/README.md",
    *(ROOT / "docs").glob("*.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ARCHITECTURE = ROOT / "docs/architecture.md"


@pytest.mark.parametrize("doc", [doc for doc in DOCS if doc.exists()], ids=lambda doc: doc.name)
def test_every_relative_link_and_image_exists(doc):
    targets = [link for link in LINK.findall(doc.read_text("utf-8")) if not re.match(r"[a-z]+:|#", link)]
    assert not [target for target in targets if not (doc.parent / target.split("#")[0]).exists()]


def test_every_path_named_in_the_architecture_exists():
    named = re.findall(r"`([\w./-]+(?:/|\.(?:py|toml|safetensors)))`", ARCHITECTURE.read_text("utf-8"))
    assert len(named) > 40
    places = [ROOT, ROOT / "clipdemo", ROOT / "clipdemo/models"]
    assert not [path for path in named if not any((place / path).exists() for place in places)]


def test_every_folder_of_the_package_is_in_the_architecture():
    folders = {init.parent.name for init in (ROOT / "clipdemo").glob("*/__init__.py")}
    assert not [name for name in folders if f"| `{name}/` |" not in ARCHITECTURE.read_text("utf-8")]
