"""Memory of a process: its peak within a block, and freed memory kept and given back."""

import subprocess
import sys

import pytest
import torch

from kdutils.io import memory


def test_freed_memory_is_kept_within_and_given_back_after():
    """In a process of its own, so that other tests' memory is not in the figures."""
    code = """
import sys, psutil, numpy
from kdutils.io import memory
rss = lambda: psutil.Process().memory_info().rss >> 20
with memory.keeping_freed_memory() as works:
    with memory.keeping_freed_memory():
        pass
    block = numpy.ones(40 << 20)
    del block
    kept = rss()
print(works, kept, rss())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    works, kept, after = told.split()
    if works == "False":
        pytest.skip("another C library than glibc")
    assert int(kept) > 320 and int(after) < 200


@pytest.mark.parametrize(("share", "is_kept"), [(0.0, True), (1.0, False)])
def test_freed_memory_between_blocks_in_use_is_given_back_while_the_machine_has_little_left(share, is_kept):
    code = f"""
import time, psutil, numpy
from kdutils.io import memory
memory.SHORT_SHARE, memory.LOOK_SECONDS = {share}, 0.01
rss = lambda: psutil.Process().memory_info().rss >> 20
with memory.keeping_freed_memory() as works:
    blocks = [numpy.ones(4 << 20) for _ in range(16)]
    del blocks[:-1]  # the last keeps the heap from ending before it
    ends = time.monotonic() + (1 if {is_kept} else 60)
    while rss() > 200 and time.monotonic() < ends:
        time.sleep(0.02)
    print(works, rss())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    works, held = told.split()
    if works == "False":
        pytest.skip("another C library than glibc")
    assert (int(held) > 480) is is_kept


@pytest.mark.parametrize("place", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_with_less_left_than_the_machine_is_short_of_memory(tmp_path, monkeypatch, place):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    of_machine = memory.share_left()
    limit, group = tmp_path / place, (tmp_path / place).parent
    group.mkdir(exist_ok=True)
    prefix, used = ("", "current") if limit.name == "memory.max" else ("total_", "usage_in_bytes")
    (group / f"memory.{used}").write_text("1900\n")
    (group / "memory.stat").write_text(f"{prefix}active_file 500\n{prefix}inactive_file 400\nother 7\n")
    limit.write_text("1010\n")
    assert memory.share_left() == pytest.approx(10 / 1010)  # of what it holds 900 bytes are files
    limit.write_text("max\n")
    assert memory.share_left() == pytest.approx(of_machine, abs=0.1)


def test_peak_memory_is_known_where_the_system_keeps_no_peak(monkeypatch):
    with pytest.raises(OSError, match="has no VmNothing"):
        memory.status_gb("VmNothing")

    def silent(entry):
        raise OSError("this system does not say")

    monkeypatch.setattr(memory, "status_gb", silent)
    with memory.peak_memory() as found:
        pass
    assert found["memory_by"] == "samples" and 0.01 < found["peak_gb"] < 100


@pytest.mark.parametrize("by", ["VmHWM", "samples"])
def test_the_peak_is_that_of_what_was_held_and_given_back(by, monkeypatch):
    if by == "samples":

        def refuse(self, *_, **__):
            raise PermissionError

        monkeypatch.setattr(memory.Path, "write_text", refuse)
    torch.zeros(200_000_000, dtype=torch.uint8).sum()  # before: does not count
    with memory.peak_memory() as found:
        held = torch.ones(60_000_000, dtype=torch.uint8)
        held = [held + 1 for _ in range(20)][-1]
        del held
    assert found["memory_by"] == by
    above = found["peak_gb"] - found["start_gb"]
    assert 0.8 < above < 1.5
