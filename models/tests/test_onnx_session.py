"""A graph is opened at low priority, and served at the priority that the process had."""

import ctypes
import os
import platform
import struct
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_repository import onnx_session
from model_repository.onnx_session import LOADING_NICENESS, LOADING_SLICE_NS, open_session, step_back
from onnx import TensorProto, helper


def folder(tmp_path: Path, graph: bytes) -> dict[str, str]:
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(graph)
    return {"model_repository": str(version.parent), "model_version": "1"}


def doubling() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize(("threads", "added"), [(1, LOADING_NICENESS), (2, 0)])
def test_opening_steps_back_unless_the_sessions_threads_would_inherit_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, added: int
) -> None:
    seen: list[int] = []
    opened = onnx_session._open

    def watched(*args: object, **named: object) -> object:
        seen.append(niceness())
        return opened(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_session, "_open", watched)
    before = niceness()
    session = open_session(folder(tmp_path, doubling()), {"intra_op_threads": str(threads)}, arena=False)
    assert seen == [min(before + added, 19)]
    assert niceness() == before
    assert session.run(["y"], {"x": np.ones(2, np.float32)})[0].tolist() == [2.0, 2.0]


def test_whoever_steps_back_makes_way_at_once_where_the_kernel_can() -> None:
    seen: list[tuple[int, int]] = []

    def stepping_back() -> None:
        step_back()
        number = {"x86_64": 315, "aarch64": 275}[platform.machine()]  # sched_getattr
        attributes = ctypes.create_string_buffer(48)
        assert ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0) == 0
        *_, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
        seen.append((niceness(), slice_ns))

    before = niceness()
    thread = threading.Thread(target=stepping_back)
    thread.start()
    thread.join()
    major, minor = map(int, platform.release().split(".")[:2])
    slice_ns = LOADING_SLICE_NS if (major, minor) >= (6, 12) else 0
    assert seen == [(min(before + LOADING_NICENESS, 19), slice_ns)]
    assert niceness() == before


def test_what_is_wrong_with_a_graph_is_said(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"model\.onnx"):
        open_session(folder(tmp_path, b"no graph"), {"intra_op_threads": "1"})
