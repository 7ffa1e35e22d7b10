"""The watchdog tells a dead backend process from a living and from a properly ended one, and leaves no orphan."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_repository.stub_watchdog import dead_stubs

SERVER = """
import os, subprocess, sys

def begin(server):
    print(subprocess.Popen(["sleep", "60", "0", "0", "0", str(server)]).pid, flush=True)

begin(os.getpid())
begin(1)
subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.DEVNULL)
input()
begin(os.getpid())
input()
"""
"""Its backend processes have its process id where Triton's have it; one names another server."""

WATCHING = """
import os, time, types
from model_repository import stub_watchdog

def sleep(seconds):
    print("has looked", flush=True)
    time.sleep(seconds)

stub_watchdog.time = types.SimpleNamespace(sleep=sleep)
stub_watchdog.watch(os.getppid(), "sleep")
"""


def test_a_dead_child_counts_until_its_parent_waits_for_it() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        deadline = time.monotonic() + 5
        while child.pid not in dead_stubs(os.getpid(), "true"):
            assert time.monotonic() < deadline, "the dead child was not seen"
        child.wait()
        assert child.pid not in dead_stubs(os.getpid(), "true")


def test_a_living_child_and_a_dead_one_of_another_name_do_not_count() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as living:
        assert living.pid not in dead_stubs(os.getpid(), "cat")
        living.stdin.close()


def test_what_a_killed_server_leaves_is_ended_and_what_is_not_its_own_is_not() -> None:
    command = [sys.executable, "-c", SERVER, WATCHING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        old, of_another = (Path("/proc", server.stdout.readline().strip()) for _ in range(2))
        assert server.stdout.readline() == "has looked\n"
        server.stdin.write("\n")
        server.stdin.flush()
        begun_since = Path("/proc", server.stdout.readline().strip())
        server.kill()
        server.wait()
        deadline = time.monotonic() + 10
        while old.exists() or begun_since.exists():
            assert time.monotonic() < deadline, "a backend process stayed"
            time.sleep(0.05)
        assert of_another.exists()
        os.kill(int(of_another.name), signal.SIGKILL)
