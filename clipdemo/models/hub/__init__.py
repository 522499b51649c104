"""Finds, downloads and verifies files of checkpoints on the Hugging Face hub."""

from clipdemo.models.hub.snapshot import (
    CAPTIONS,
    IMAGES,
    Needs,
    Progress,
    Snapshot,
    download,
    find,
    is_name,
    needed_bytes,
)

__all__ = [
    "CAPTIONS",
    "IMAGES",
    "Needs",
    "Progress",
    "Snapshot",
    "download",
    "find",
    "is_name",
    "needed_bytes",
]
