"""One thread at a time imports from transformers and loads weights. No framework is imported here.

transformers resolves its names when they are first used and is not safe then: of two threads that load checkpoints at
once, one is told that ``BertModel`` does not exist, or that the files are broken (docs/decisions.md).
"""

from __future__ import annotations

import threading

LOADING = threading.Lock()
