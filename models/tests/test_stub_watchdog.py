"""The watchdog tells a dead backend process from a living and from a properly ended one, and leaves no orphan."""

import os
import subprocess
import sys
import time
from pathlib import Path

from model_repository.stub_watchdog import dead_stubs

SERVER = """
import subprocess, sys, time
stub = subprocess.Popen(["sleep", "60"])
print(stub.pid, flush=True)
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""
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


def test_what_a_killed_server_leaves_is_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, WATCHING], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        stub = Path("/proc", server.stdout.readline().strip())
        assert server.stdout.readline() == "has looked\n"
        assert stub.exists()
        server.kill()
        server.wait()
        deadline = time.monotonic() + 10
        while stub.exists():
            assert time.monotonic() < deadline, "the backend process stayed"
            time.sleep(0.05)
