"""Brings the whole platform up and down."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock_cli.settings import Settings
from penstock_cli.stack.keys import ensure_dev_keys, ensure_identity_keys
from penstock_cli.stack.live_configuration import ensure_live_file
from penstock_cli.stack.ports import require_free
from penstock_cli.stack.readiness import is_ready
from penstock_cli.stack.supervisor import ProcessState, Supervisor
from penstock_cli.stack.table import Process, StackError, load_processes

POLL_S = 0.2
LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """A process with its ports, how it runs and whether it is ready."""

    process: Process
    state: ProcessState
    ready: bool


class Stack:
    """The platform of one state directory."""

    def __init__(self, settings: Settings) -> None:
        """Read the service table; nothing starts yet."""
        self._settings = settings
        self._processes = load_processes(settings)
        self._supervisor = Supervisor(settings.state)

    def up(self, on_ready: Callable[[str, float], None]) -> bool:
        """Start everything and wait until it is ready; return False when it was running already.

        `on_ready` hears the name of each process and the seconds it took. Raises StackError.
        """
        require_platform()
        running = self._supervisor.is_running()
        if not running:
            self._start()
        self._await_ready(on_ready)
        return not running

    def down(self) -> bool:
        """Stop everything; return whether something ran."""
        return self._supervisor.stop()

    def report(self) -> list[ProcessReport]:
        """Return every process as it is now."""
        states = {state.name: state for state in self._supervisor.states()}
        return [ProcessReport(process, states[process.name], is_ready(process)) for process in self._processes]

    def log_files(self, names: list[str]) -> dict[str, str]:
        """Return the log file of each named process, of all when none is named; raise StackError for unknown ones."""
        known = [process.name for process in self._processes]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise StackError(f"no process is called {unknown[0]!r}; there are {', '.join(known)}")
        return {name: str(self._supervisor.log_file(name)) for name in names or known}

    def _start(self) -> None:
        settings = self._settings
        if not (settings.models / "extractive-reader").is_dir():
            raise StackError(f"{settings.models} holds no model repository: build it with `make models`")
        require_free(self._processes)
        ensure_identity_keys(settings.state / "keys")
        ensure_live_file(settings)
        gateway = next(process for process in self._processes if process.name == "gateway")
        ensure_dev_keys(settings.state / "dev.env", gateway)
        self._supervisor.start(self._processes)

    def _await_ready(self, on_ready: Callable[[str, float], None]) -> None:
        started = time.monotonic()
        waiting = list(self._processes)
        while waiting:
            for process in [process for process in waiting if is_ready(process)]:
                waiting.remove(process)
                on_ready(process.name, time.monotonic() - started)
            if time.monotonic() - started > self._settings.ready_timeout_s:
                raise StackError(self._lateness(waiting))
            time.sleep(POLL_S)

    def _lateness(self, waiting: list[Process]) -> str:
        name = waiting[0].name
        file = self._supervisor.log_file(name)
        tail = file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if file.exists() else []
        names = ", ".join(process.name for process in waiting)
        return "\n".join([f"not ready after {self._settings.ready_timeout_s:.0f} s: {names}. Last of {file}:", *tail])


def require_platform() -> None:
    """Raise StackError where the bundled Triton does not run, with what to use instead."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise StackError(
            f"the local stack needs Linux on x86-64; this is {platform.system()} on {platform.machine()}. "
            "Use a Linux x86-64 (virtual) machine, or call a Penstock elsewhere with PENSTOCK_URL and PENSTOCK_API_KEY"
        )
