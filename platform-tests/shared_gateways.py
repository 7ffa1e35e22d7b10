"""Gateway processes of a test's own behind a running stack: one Redis, one database, one journal folder for all."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import hiredis
import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict
from stack_process import RunningStack

START_S = 30.0
CONFIGURATION = "limits: {when_away: closed, timeout_ms: 5000}\n"
"""No limits of a process's own: a slow machine must not turn an exact limit into three local ones."""

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Databases(BaseSettings):
    """Real databases that tests may use: PENSTOCK_TEST_POSTGRES is postgresql://USER@HOST:PORT/NAME."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_")
    postgres: str = ""


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis server of a test's own."""

    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *words: str) -> Any:
        """Run a command over a connection of its own, and return its answer: text, a number, a list of them or None."""
        reader = hiredis.Reader(encoding="utf-8")
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(hiredis.pack_command(words))
            while (answer := reader.gets()) is False:
                reader.feed(connection.recv(65536))
        assert not isinstance(answer, hiredis.ReplyError), answer
        return answer


@contextmanager
def running_redis(folder: Path) -> Iterator[Redis]:
    """Run a Redis server while the block lasts; skip where there is none to run."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on this machine")
    redis = Redis(free_port())
    fixed = ["--port", str(redis.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen([program, *fixed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await(lambda: _answers(redis), "redis-server")
            yield redis
        finally:
            process.kill()


@contextmanager
def shared_database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database: a SQLite file, or one on the PostgreSQL that a variable names."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'shared.db'}"
        return
    server = Databases().postgres
    if not server:
        pytest.skip("PENSTOCK_TEST_POSTGRES names no server")
    name = f"shared_{os.urandom(6).hex()}"
    asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Fleet:
    """Some gateways; each can be killed and started again. Addresses stay."""

    def __init__(self, stack: RunningStack, folder: Path, settings: Mapping[str, str], count: int) -> None:
        """Take the settings that differ from those of the stack's own gateway. Nothing starts yet."""
        self.journals = folder / "journal"
        (folder / "gateway.yaml").write_text(CONFIGURATION)
        shared = {"CONFIGURATION_FILE": str(folder / "gateway.yaml"), "JOURNAL_FOLDER": str(self.journals), **settings}
        own = _environment(stack.pid("gateway"))
        self._environment = own | {f"GATEWAY_{name}": value for name, value in shared.items()}
        self._folder = folder
        self._ports = [(free_port(), free_port(), free_port()) for _ in range(count)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.gateways: list[RunningStack] = []

    def open(self) -> None:
        """Make an administrator, and start all of them."""
        create = [sys.executable, "-m", "gateway.admin", "create", "--tenant", "operator", "--admin"]
        made = subprocess.run(create, env=self._environment, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        admin_key = json.loads(made.stdout)["key"]
        for place, (rest, grpc, _) in enumerate(self._ports):
            addresses = f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}"
            self.gateways.append(RunningStack(*addresses, "", admin_key, self._environment))
            self.start(place)
        for place in range(len(self._ports)):
            self.await_ready(place)

    def start(self, place: int) -> None:
        """Start one of them."""
        rest, grpc, metrics = (f"127.0.0.1:{port}" for port in self._ports[place])
        own = {"GATEWAY_REST_ADDRESS": rest, "GATEWAY_ADDRESS": grpc, "GATEWAY_METRICS_ADDRESS": metrics}
        with self.log(place).open("ab") as log:
            self._processes[place] = subprocess.Popen(
                [sys.executable, "-m", "gateway.main"], env=self._environment | own, stdout=log, stderr=log
            )

    def await_ready(self, place: int) -> None:
        """Wait until one of them serves; fail with what it wrote when it does not."""
        url = f"{self.gateways[place].url}/healthz/ready"
        try:
            _await(lambda: _is_ready(url), f"gateway {place}")
        except AssertionError as error:
            raise AssertionError(self.log(place).read_text()[-4000:]) from error

    def kill(self, place: int) -> None:
        """End one of them at once, as a crash would."""
        self._processes[place].send_signal(signal.SIGKILL)
        self._processes.pop(place).wait()

    def metric(self, place: int, name: str) -> float:
        """Return the sum of a metric over its labels."""
        url = f"http://127.0.0.1:{self._ports[place][2]}/metrics"
        with _opener.open(url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def log(self, place: int) -> Path:
        """Return where one of them writes its log."""
        return self._folder / f"gateway-{place}.log"

    def close(self) -> None:
        """Stop all of them."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running_fleet(stack: RunningStack, folder: Path, settings: Mapping[str, str], count: int = 3) -> Iterator[Fleet]:
    """Run gateways beside the stack's own while the block lasts."""
    fleet = Fleet(stack, folder, settings, count)
    with ExitStack() as stopping:
        stopping.callback(fleet.close)
        fleet.open()
        yield fleet


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _environment(pid: int) -> dict[str, str]:
    """Return the variables that a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _await(is_up: Any, what: str) -> None:
    end = time.monotonic() + START_S
    while not is_up():
        assert time.monotonic() < end, f"{what} does not start"
        time.sleep(0.05)


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ask("PING") == "PONG")
    except OSError:
        return False


def _is_ready(url: str) -> bool:
    try:
        with _opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
