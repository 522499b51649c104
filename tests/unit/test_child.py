"""A child process has its limits, and only what it needs of the parent's environment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def test_the_system_ends_children_first(tmp_path, monkeypatch):
    code = """
child.limit(memory_bytes=10**8, cpu_seconds=20)
child.limit(memory_bytes=10**8, cpu_seconds=20)
print(open("/proc/self/oom_score_adj").read())
"""
    assert run(tmp_path, monkeypatch, code)[1].strip() == b"1000"


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


def test_a_deadline_ends_the_child_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(300)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with child.start("sleeper") as process:
        with child.deadline(process, 600) as struck:
            pass
        assert not struck.is_set()
        assert process.poll() is None
        with child.deadline(process, 0.2) as struck:
            assert process.wait(timeout=60) == -signal.SIGKILL
        assert struck.is_set()


def test_a_child_ends_with_a_parent_that_was_killed(tmp_path):
    """Its standard input is a file or closed, so nothing else tells it."""
    (tmp_path / "sleeper.py").write_text(
        "import time\nfrom clipdemo import child\n"
        "child.limit(memory_bytes=10**8, cpu_seconds=20)\nprint(1, flush=True)\ntime.sleep(300)\n"
    )
    code = (
        "import subprocess, time\nfrom clipdemo import child\n"
        "process = child.start('sleeper', stdin=subprocess.DEVNULL)\nprocess.stdout.readline()\n"
        "time.sleep(5)\nprint(process.poll(), process.pid, flush=True)\ntime.sleep(300)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(child.__file__).parent.parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
    )
    with parent:
        ended, pid = parent.stdout.readline().split()
        assert ended == b"None"  # while the parent lives, so does the child
        parent.kill()
    until = time.monotonic() + 60
    while is_running(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
