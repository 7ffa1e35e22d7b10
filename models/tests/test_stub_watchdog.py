"""The watchdog tells a dead backend process from a living and from a properly ended one."""

import os
import subprocess
import time

from model_repository.stub_watchdog import dead_stubs


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
