"""The watchdog tells a dead backend process from a living and from a properly ended one, and leaves no orphan."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from model_repository.stub_watchdog import dead_stubs

SERVER = """
import os, subprocess, sys, threading

def begin(server):
    print(subprocess.Popen(["sleep", "60", "0", "0", "0", str(server)]).pid, flush=True)

for _ in range(200):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.DEVNULL)
begin(os.getpid())
begin(1)
input()
"""
"""As many threads as Triton, and backend processes that name their server where Triton's do; one names another."""

WATCHING = """
import os
from model_repository import stub_watchdog

print("watching", flush=True)
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


@pytest.mark.parametrize("_", range(5))
def test_what_a_killed_server_leaves_is_ended_and_what_is_not_its_own_is_not(_: int) -> None:
    command = [sys.executable, "-c", SERVER, WATCHING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = [server.stdout.readline().strip() for _ in range(3)]
        said.remove("watching")
        own, of_another = (Path("/proc", pid) for pid in said)
        time.sleep(0.1)
        server.kill()
        server.wait()
        deadline = time.monotonic() + 10
        while own.exists():
            assert time.monotonic() < deadline, "a backend process stayed"
            time.sleep(0.05)
        assert of_another.exists()
        os.kill(int(of_another.name), signal.SIGKILL)
