"""How well images and captions match under CLIP: the engine of the app, for scripts and notebooks.

>>> encoder = load_encoder("embedded")
>>> images = [decode_image(data, name)]
>>> score_matrix(encoder, images, ["a cat", "a dog"]).cosine

Importing clipdemo is cheap: everything but the errors is loaded when it is first used. All errors are
subclasses of ``ClipdemoError``; :mod:`clipdemo.errors` shows the tree.
"""

import os
from typing import TYPE_CHECKING

from clipdemo import errors
from clipdemo.errors import *  # noqa: F403 - every error is public

# Set before torch is loaded: OpenMP threads spin while they wait for each other. Where another program or a
# decoding thread held a core, encoding an image took 18 times as long (docs/decisions.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:  # type checkers see plain imports ...
    from clipdemo.images.decode import decode_image as decode_image
    from clipdemo.images.fetch import fetch_image as fetch_image
    from clipdemo.models.load import load_encoder as load_encoder
    from clipdemo.scoring.score import score_matrix as score_matrix
    from clipdemo.scoring.score import score_pairs as score_pairs
    from clipdemo.types import Checkpoint as Checkpoint
    from clipdemo.types import Encoder as Encoder
    from clipdemo.types import ImageItem as ImageItem
    from clipdemo.types import PairScore as PairScore
    from clipdemo.types import ScoreMatrix as ScoreMatrix
    from clipdemo.version import __version__ as __version__
else:  # ... Python imports a name from its module at the first use
    _MODULES = {
        "decode_image": "images.decode",
        "fetch_image": "images.fetch",
        "load_encoder": "models.load",
        "score_matrix": "scoring.score",
        "score_pairs": "scoring.score",
        "Checkpoint": "types",
        "Encoder": "types",
        "ImageItem": "types",
        "PairScore": "types",
        "ScoreMatrix": "types",
        "__version__": "version",
    }
    __all__ = list(_MODULES)
    __all__ += [name for name in vars(errors) if name.endswith("Error")]

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'clipdemo' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"clipdemo.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return [*globals(), *_MODULES]
