"""The whole app in Streamlit's own test runner, without a browser; the hub is down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipdemo.ui import state

ENTRY = Path(__file__).parents[2] / "streamlit_app.py"


@pytest.fixture
def run_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., AppTest]:
    """Start a session of a fresh process, as far as caches go, with ``CLIPDEMO_*`` variables set."""

    def start(**environment: str) -> AppTest:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        state._make_engine.cache_clear()
        app = AppTest.from_file(str(ENTRY), default_timeout=120).run()
        assert not app.exception
        return app

    return start
