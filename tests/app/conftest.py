"""The whole app in Streamlit's own test runner, without a browser; the hub is down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

ENTRY = Path(__file__).parents[2] / "streamlit_app.py"


@pytest.fixture
def run_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., AppTest]:
    """Start a session of a fresh process, as far as caches go, with ``CLIPDEMO_*`` variables set."""

    def start(**environment: str) -> AppTest:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        st.cache_resource.clear()
        app = AppTest.from_file(str(ENTRY), default_timeout=120).run()
        assert not app.exception
        return app

    return start
