"""Asks the hub for the commit and the files of a repository. The answer is untrusted and bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from clipdemo.errors import HubUnreachableError
from clipdemo.models.hub.connection import CONNECT_SECONDS, NO_HUB, Cutoff, endpoint, open_answer
from clipdemo.models.hub.transfer import File

LISTING_SECONDS = 60.0
MAX_LISTING_BYTES = 20_000_000  # 100,000 files
MAX_FILE_BYTES = 1_000_000_000_000
WEIGHT_SUFFIXES = (".safetensors", ".bin")


def ask_hub(name: str, revision: str, *, with_token: bool) -> tuple[str, list[File]]:
    """The commit behind ``revision`` and the files in the top folder of its tree.

    Raises:
        HubUnreachableError: the answer is too large, too slow or not that of a hub.
    """
    from huggingface_hub import constants

    # Without it the client asks the hub who is calling and sends it the names of other installed packages.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    answer = _fetch(name, revision, with_token=with_token)
    try:
        commit = answer["sha"]
        listed = [_file(each) for each in answer["siblings"] if _is_top_level(each["rfilename"])]
        # The hashes become paths; those of a real hub are always valid.
        hashes = [commit, *(file.digest for file in listed)]
        if all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", each) for each in hashes):
            return str(commit), listed
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise HubUnreachableError(NO_HUB.format(reason="the answer is not from a hub")) from error
    raise HubUnreachableError(NO_HUB.format(reason="its file list lacks checksums"))


def _is_top_level(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII)) and name.strip(".") != ""


def _file(sibling: Mapping[str, Any]) -> File:
    """A file as listed; its size must be a number of bytes that a disk could hold."""
    name, size, lfs = sibling["rfilename"], sibling.get("size") or 0, sibling.get("lfs")
    if type(size) is not int or not 0 <= size < MAX_FILE_BYTES:
        raise ValueError(f"{name} has {size!r:.40} bytes")
    return File(name, size, lfs["sha256"] if lfs else sibling.get("blobId") or "")


def _fetch(name: str, revision: str, *, with_token: bool) -> Any:
    """What the hub knows about a revision of a repository, as JSON."""
    import httpx2
    from huggingface_hub import hf_raise_for_status

    url = f"{endpoint()}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
    content, timeout = bytearray(), httpx2.Timeout(CONNECT_SECONDS)
    with Cutoff(LISTING_SECONDS) as cutoff:
        try:
            with open_answer(url, timeout, with_token=with_token, cutoff=cutoff) as response:
                hf_raise_for_status(response)
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > MAX_LISTING_BYTES:
                        raise HubUnreachableError(NO_HUB.format(reason="its list of files is too large"))
        except httpx2.TransportError as error:
            if cutoff.passed:
                raise HubUnreachableError(NO_HUB.format(reason="no answer in time")) from error
            raise
    if cutoff.passed:  # the end of a body without a length looks complete
        raise HubUnreachableError(NO_HUB.format(reason="no answer in time"))
    try:
        return json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise HubUnreachableError(NO_HUB.format(reason="the answer is not from a hub")) from error
