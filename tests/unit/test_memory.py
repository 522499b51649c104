import subprocess
import sys

import pytest

from clipdemo.errors import NotEnoughMemoryError
from clipdemo.memory import Memory, Room, give_back, need, translate_memory_errors

GB = 10**9
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def machine(root, *, cgroup="0::/\n", total=8_000_000, available=6_000_000, rss=500_000, mapped=100_000):
    """Write the files of a Linux machine below ``root``; sizes in kB."""
    write(root, "proc/meminfo", f"MemTotal: {total} kB\nMemAvailable: {available} kB\nHugePages_Total: 0\n")
    write(root, "proc/self/status", f"Name: python\nVmRSS:\t{rss} kB\nRssFile:\t{mapped} kB\n")
    write(root, "proc/self/cgroup", cgroup)


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def unified(
    root, group, limit, current, *, stat="active_file 0\ninactive_file 0\nfile_mapped 0\n", high="max"
):
    folder = f"sys/fs/cgroup{group}"
    write(root, f"{folder}/memory.max", f"{limit}\n")
    write(root, f"{folder}/memory.high", f"{high}\n")
    write(root, f"{folder}/memory.current", f"{current}\n")
    write(root, f"{folder}/memory.stat", f"anon 5\n{stat}")


@linux
class TestOnLinux:
    def test_without_other_limits_the_machine_counts_and_mapped_weights_are_used_memory(self, tmp_path):
        machine(tmp_path)
        assert Memory(root=tmp_path).room() == Room(8_000_000 * 1024, 2_100_000 * 1024)

    def test_without_control_groups_the_machine_is_the_limit(self, tmp_path):
        machine(tmp_path)
        (tmp_path / "proc/self/cgroup").unlink()
        assert Memory(root=tmp_path).room().limit == 8_000_000 * 1024

    def test_the_hosts_own_limit_is_on_resident_memory(self, tmp_path):
        machine(tmp_path)
        assert Memory(GB, root=tmp_path).room() == Room(GB, 500_000 * 1024)

    def test_cached_files_count_as_free_and_mapped_files_as_used(self, tmp_path):
        machine(tmp_path, cgroup="0::/app\n")
        stat = f"active_file {GB // 10}\ninactive_file {GB // 2}\nfile_mapped {GB // 5}\n"
        unified(tmp_path, "/app", 2 * GB, GB, stat=stat)
        assert Memory(root=tmp_path).room() == Room(2 * GB, GB - GB // 10 - GB // 2 + GB // 5)

    def test_the_tightest_of_all_ancestors_counts(self, tmp_path):
        machine(tmp_path, cgroup="0::/slice/service\n")
        unified(tmp_path, "/slice/service", "max", GB)
        unified(tmp_path, "/slice", 2 * GB, 2 * GB - 5)
        assert Memory(root=tmp_path).room() == Room(2 * GB, 2 * GB - 5)

    def test_the_limit_that_slows_down_counts_before_the_one_that_kills(self, tmp_path):
        machine(tmp_path, cgroup="0::/app\n")
        unified(tmp_path, "/app", 2 * GB, GB, high=str(3 * GB // 2))
        assert Memory(root=tmp_path).room() == Room(3 * GB // 2, GB)

    def test_a_container_sees_its_own_group_as_the_root(self, tmp_path):
        machine(tmp_path, cgroup="0::/docker/0123\n")  # a path of the host
        unified(tmp_path, "", 2 * GB, GB)
        assert Memory(root=tmp_path).room() == Room(2 * GB, GB)

    def test_version_1_next_to_other_controllers(self, tmp_path):
        machine(tmp_path, cgroup="9:name=systemd:/\n4:cpu,memory:/app\n0::/\n")
        for folder, limit in (("", 9223372036854771712), ("/app", GB)):
            group = f"sys/fs/cgroup/memory{folder}"
            write(tmp_path, f"{group}/memory.limit_in_bytes", f"{limit}\n")
            write(tmp_path, f"{group}/memory.usage_in_bytes", "700\n")
            write(tmp_path, f"{group}/memory.stat", "total_inactive_file 200\ntotal_mapped_file 50\n")
        assert Memory(root=tmp_path).room() == Room(GB, 700 - 200 + 50)

    def test_the_figures_agree_with_psutil(self):
        psutil = pytest.importorskip("psutil")
        room = Memory().room()
        assert Memory().resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
        assert room.limit <= psutil.virtual_memory().total
        assert 0 < room.free < room.limit

    def test_freed_memory_goes_back_to_the_system(self):
        give_back()
        before = Memory().resident()
        pieces = [b"x" * 60_000 for _ in range(2_000)]  # too small for pages of their own
        held = Memory().resident()
        del pieces
        give_back()
        assert held > before + 60_000_000
        assert Memory().resident() < before + 30_000_000


def test_free_memory_is_never_negative():
    assert Room(10, 12).free == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_every_failed_allocation_becomes_our_error(error):
    with pytest.raises(NotEnoughMemoryError, match="not enough for tiny"), translate_memory_errors("tiny"):
        raise error


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="shapes"), translate_memory_errors("tiny"):
        raise RuntimeError("shapes do not fit")


@linux
def test_a_failed_allocation_in_a_forward_pass_becomes_our_error(colour_clip):
    code = (
        "import resource; from pathlib import Path; from PIL import Image\n"
        "from clipdemo import load_encoder; from clipdemo.errors import NotEnoughMemoryError\n"
        "from clipdemo.types import ImageItem\n"
        f"encoder = load_encoder(Path({str(colour_clip)!r}))\n"
        "item = ImageItem('', '', Image.new('RGB', (32, 32)), b'', 32, 32, 'bytes')\n"
        "encoder.encode_images([item])\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**24,) * 2)\n"
        "try: encoder.encode_images([item] * 3000)\n"
        "except NotEnoughMemoryError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is not enough for" in done.stdout, done.stderr


def test_a_checkpoint_needs_more_than_its_weights():
    assert need(600_000_000) == 850_000_000
