"""Blocks never overlap, come back when nobody refers to them, and end with the process that made them."""

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.adapters import tensor_memory
from inference.adapters.tensor_memory import FOLDER, IN_USE, TensorMemory, Tensors

SIZE = 1 << 20
HOLD = """
import sys
from inference.adapters.tensor_memory import TensorMemory
with TensorMemory.open(1 << 20) as memory:
    print(memory.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def memory() -> Iterator[TensorMemory]:
    with TensorMemory.open(SIZE) as opened:
        yield opened


@given(st.lists(st.one_of(st.integers(1, SIZE // 2), st.integers(-8, -1)), max_size=60))
def test_blocks_hold_what_was_written_until_they_are_given_up(steps: list[int]) -> None:
    held: list[tuple[Tensors, bytes]] = []
    with TensorMemory.open(SIZE) as memory:
        for number, step in enumerate(steps):
            if step > 0 and (block := memory.take(step)) is not None:
                block.view[:] = bytes([number]) * step
                held.append((block, bytes([number]) * step))
                assert (block.start + step) % 64 == 0
                del block
            elif step < 0 and held:
                held.pop(step % len(held))
            assert all(bytes(block) == written for block, written in held)
            assert IN_USE._value.get() == sum(-(-len(block) // 64) * 64 for block, _ in held)
        held.clear()
        whole = memory.take(SIZE)
        assert whole is not None
        assert memory.take(1) is None
        del whole


def test_what_is_appended_shares_the_block(memory: TensorMemory) -> None:
    block = memory.take(100)
    assert block is not None
    block.view[:] = b"x" * 100
    longer = block + b"yz"
    assert block + b"" is block
    assert (bytes(longer), len(longer), bytes(block)) == (b"x" * 100 + b"yz", 102, b"x" * 100)
    del block
    gc.collect()
    assert IN_USE._value.get() == 128
    del longer
    assert IN_USE._value.get() == 0


def test_pages_that_cannot_be_had_are_no_room(memory: TensorMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_memory.os, "posix_fallocate", full)
    assert memory.take(100) is None


def test_a_dead_pools_memory_is_swept_away_and_a_living_ones_is_not() -> None:
    def pool() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, FOLDER / process.stdout.readline().strip()

    (dead, left), (living, kept) = pool(), pool()
    with dead, living:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists()
        with TensorMemory.open(SIZE) as memory:
            assert not left.exists()
            assert kept.exists()
            assert kept.stat().st_mode & 0o777 == 0o600
        assert not (FOLDER / memory.name).exists()
        living.communicate()
    assert not kept.exists()
