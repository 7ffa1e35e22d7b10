"""Opens a model's graph inside Triton's Python backend. The builder copies this file beside each model that has one."""

import ctypes
import os
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LOADING_NICENESS = 10
"""A tenth of a core where both are wanted, and all of one where not."""

LOADING_SLICE_NS = 100_000_000
"""From Linux 6.12 on, who wakes on a core where a thread with a longer slice runs need not wait for the next tick, for
up to 4 ms. Others have a few milliseconds; older kernels take no notice."""

SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, which the C library knows from 2.41 on."""
KEEP_POLICY = 8


def step_back() -> None:
    """Give way to models in use, with this thread and for good: only the privileged may take a priority back."""
    thread = threading.get_native_id()
    niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + LOADING_NICENESS, 19)
    os.setpriority(os.PRIO_PROCESS, thread, niceness)
    call = SCHED_SETATTR.get(os.uname().machine)
    if call is not None:  # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
        attributes = struct.pack("=IIQiIQQQ", 48, 0, KEEP_POLICY, niceness, 0, LOADING_SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(call, thread, attributes, 0)


def open_session(args: Mapping[str, str], parameters: Mapping[str, str], *, arena: bool = True) -> Any:
    """Return the ONNX Runtime session of model.onnx in the model's version folder.

    `args` is what the backend gives to `initialize`, `parameters` those of config.pbtxt. It is made at low priority, so
    that models in use are not slower for one that is being loaded: threads have a priority each, and the calling one,
    which is to serve later and could not take its own back, keeps it. Threads of the session itself would inherit it.
    """
    graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
    threads = int(parameters["intra_op_threads"])
    if threads != 1:
        return _open(graph, threads, arena=arena)
    with ThreadPoolExecutor(1, initializer=step_back) as worker:
        return worker.submit(_open, graph, threads, arena=arena).result()


def _open(graph: Path, threads: int, *, arena: bool) -> Any:
    import onnxruntime as ort  # noqa: PLC0415  half of the work of a load

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # A spinning thread pool steals the processor from the services beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
