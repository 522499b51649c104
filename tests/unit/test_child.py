"""A child process has its limits, and only what it needs of the parent's environment."""

import json
import subprocess
import sys

import pytest

from clipdemo import child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce these limits")

MB = 1_000_000


def run(tmp_path, monkeypatch, code, stdin=b""):
    """Exit status and output of a child whose module is ``code``."""
    (tmp_path / "greedy.py").write_text(f"from clipdemo import child\n{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    process = child.start("greedy")
    output, _ = process.communicate(stdin, timeout=60)
    return process.returncode, output


def test_an_allocation_beyond_the_limit_fails(tmp_path, monkeypatch):
    code = """
child.limit(memory_bytes=200_000_000, cpu_seconds=20)
few = bytearray(150_000_000)
try:
    bytearray(100_000_000)
except MemoryError:
    print("refused")
"""
    assert run(tmp_path, monkeypatch, code) == (0, b"refused\n")


def test_a_new_task_has_a_new_limit(tmp_path, monkeypatch):
    code = """
child.limit(memory_bytes=10_000_000, cpu_seconds=20)
kept = bytearray(5_000_000)
child.limit(memory_bytes=200_000_000, cpu_seconds=20)
print(len(bytearray(150_000_000)))
"""
    assert run(tmp_path, monkeypatch, code) == (0, b"150000000\n")


def test_the_system_ends_a_child_that_takes_too_much_processor_time(tmp_path, monkeypatch):
    status, _ = run(tmp_path, monkeypatch, "child.limit(memory_bytes=10**8, cpu_seconds=1)\nwhile True: pass")
    assert status < 0  # by a signal


def test_a_renewed_limit_of_time_leaves_that_of_memory(tmp_path, monkeypatch):
    code = """
import time
child.limit(memory_bytes=100_000_000, cpu_seconds=1)
child.limit_processor_time(30)
few = bytearray(60_000_000)
child.limit_processor_time(30)
try:
    bytearray(60_000_000)
except MemoryError:
    print("refused")
while time.process_time() < 3:
    pass
"""
    assert run(tmp_path, monkeypatch, code) == (0, b"refused\n")


def test_a_child_cannot_write_files(tmp_path, monkeypatch):
    code = f"""
import signal
child.limit(memory_bytes=10**8, cpu_seconds=20)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open({str(tmp_path / "new.txt")!r}, "w") as file:
        file.write("text")
except OSError as error:
    print("refused")
"""
    assert run(tmp_path, monkeypatch, code) == (0, b"refused\n")


def test_a_child_inherits_neither_secrets_nor_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    status, output = run(tmp_path, monkeypatch, "import os, json; print(json.dumps(dict(os.environ)))")
    environment = json.loads(output)
    assert status == 0
    assert not {"HF_TOKEN", "HTTPS_PROXY"} & environment.keys()


def test_a_child_runs_no_module_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/json.py").write_text("print('taken over')\n")
    monkeypatch.chdir(tmp_path / "here")
    assert run(tmp_path, monkeypatch, "import json; print(json.dumps(1))") == (0, b"1\n")


def test_a_child_reads_what_it_is_given(tmp_path, monkeypatch):
    code = "import sys; print(len(sys.stdin.buffer.read()))"
    assert run(tmp_path, monkeypatch, code, b"x" * MB) == (0, b"1000000\n")
    (tmp_path / "data").write_bytes(b"y" * 10)
    (tmp_path / "measure.py").write_text(code)
    with (tmp_path / "data").open("rb") as file:
        process = child.start("measure", stdin=file)
        assert process.communicate(timeout=60)[0] == b"10\n"
    assert isinstance(process, subprocess.Popen)
