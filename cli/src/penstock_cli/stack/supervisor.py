"""Runs the processes under supervisord, which restarts one that dies."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_cli.stack.keys import write_private
from penstock_cli.stack.table import Process, StackError

LONGEST_SOCKET_PATH = 107
STOP_WAIT_S = 20
START_WAIT_S = 10
RPC_INTERFACE = "supervisor.rpcinterface:make_main_rpcinterface"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord knows of a process."""

    name: str
    state: str
    pid: int
    uptime_s: int
    detail: str


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=STOP_WAIT_S + 10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002  the interface's signature
        return _SocketConnection(self._path)


class Supervisor:
    """The supervisor of one state directory."""

    def __init__(self, state: Path) -> None:
        """Take the state directory; raise StackError when its path is too long for a socket."""
        self._state = state.absolute()
        self._socket = self._state / "supervisor.sock"
        if len(str(self._socket)) > LONGEST_SOCKET_PATH:
            raise StackError(f"{self._state} is too long a path for a socket: set PENSTOCK_STATE to a shorter one")

    def is_running(self) -> bool:
        """Return whether a supervisor answers."""
        try:
            self._rpc().supervisor.getState()
        except OSError:
            return False
        return True

    def start(self, processes: Iterable[Process]) -> None:
        """Start supervisord in the background with all processes; raise StackError when it does not come up."""
        configuration = self._state / "supervisord.conf"
        write_private(configuration, self._configuration(processes).encode())
        (self._state / "logs").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        end = time.monotonic() + START_WAIT_S
        while not self.is_running():
            if done.returncode != 0 or time.monotonic() > end:
                raise StackError(f"the supervisor did not start: {(done.stderr or done.stdout).strip()}")
            time.sleep(0.05)

    def stop(self) -> bool:
        """Stop every process, then the supervisor; return whether one was running."""
        if not self.is_running():
            return False
        pid = self._rpc().supervisor.getPID()
        self._rpc().supervisor.shutdown()
        end = time.monotonic() + STOP_WAIT_S + 10
        while _alive(pid):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                raise StackError(f"the supervisor (pid {pid}) did not stop in time and was killed")
            time.sleep(0.1)
        return True

    def states(self) -> list[ProcessState]:
        """Return every process as it is now; raise StackError when no supervisor runs."""
        if not self.is_running():
            raise StackError("the stack is not running: start it with `penstock up`")
        rows: Any = self._rpc().supervisor.getAllProcessInfo()
        return [
            ProcessState(row["name"], row["statename"], row["pid"], row["now"] - row["start"], row["description"])
            for row in rows
        ]

    def log_file(self, name: str) -> Path:
        """Return where a process's output goes."""
        return self._state / "logs" / f"{name}.log"

    def _rpc(self) -> Any:
        return xmlrpc.client.ServerProxy("http://localhost", transport=_SocketTransport(str(self._socket)))

    def _configuration(self, processes: Iterable[Process]) -> str:
        sections = [
            _section("unix_http_server", {"file": str(self._socket), "chmod": "0700"}),
            _section("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": RPC_INTERFACE}),
            _section(
                "supervisord",
                {
                    "logfile": f"{self._state}/logs/supervisord.log",
                    "pidfile": f"{self._state}/supervisord.pid",
                    "directory": str(self._state),
                    "minfds": "1024",
                    "silent": "true",
                },
            ),
            *(self._program(process) for process in processes),
        ]
        return "\n\n".join(sections).replace("%", "%%") + "\n"

    def _program(self, process: Process) -> str:
        lines = {
            "command": " ".join(_quoted(part) for part in process.command),
            "environment": _environment(process.environment),
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "1000000",
            "stopwaitsecs": str(STOP_WAIT_S),
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(self.log_file(process.name)),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "2",
        }
        return _section(f"program:{process.name}", lines)


def _section(name: str, values: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "\n".join(f"{key}={value}" for key, value in values.items() if value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _environment(values: Mapping[str, str]) -> str:
    """Return variables as supervisord reads them: it knows two kinds of quotes, and no escapes."""
    pairs = []
    for name, value in values.items():
        quote = "'" if '"' in value else '"'
        if quote in value:
            raise StackError(f"{name}: a value cannot have both kinds of quotes: {value}")
        pairs.append(f"{name}={quote}{value}{quote}")
    return ",".join(pairs)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
