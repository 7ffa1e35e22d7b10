"""The service table, ports, keys and the supervisor's configuration."""

import configparser
import socket
import stat
from pathlib import Path

import pytest
from penstock_cli.settings import ROOT, Settings
from penstock_cli.stack import stack as stack_module
from penstock_cli.stack.keys import ensure_identity_keys
from penstock_cli.stack.ports import require_free
from penstock_cli.stack.supervisor import Supervisor
from penstock_cli.stack.table import StackError, load_processes


def test_every_placeholder_of_the_table_is_filled(tmp_path: Path) -> None:
    processes = load_processes(Settings(state=tmp_path))
    assert processes[0].name == "triton"
    for process in processes:
        for text in (*process.command, *process.environment.values()):
            assert "{" not in text.replace('{"', "").replace("{}", ""), (process.name, text)


def test_ports_move_together_or_one_by_one(tmp_path: Path) -> None:
    processes = load_processes(Settings(state=tmp_path, port_offset=1000, ports={"gateway.rest": 7000}))
    gateway = next(process for process in processes if process.name == "gateway")
    assert gateway.ports == {"rest": 7000, "grpc": 9081, "metrics": 10081}
    assert gateway.environment["GATEWAY_REST_ADDRESS"] == "127.0.0.1:7000"
    assert gateway.environment["GATEWAY_EMBEDDING_ADDRESS"] == "127.0.0.1:9083"


def test_a_mistake_in_the_table_is_named(tmp_path: Path) -> None:
    table = tmp_path / "services.yaml"
    table.write_text((ROOT / "deploy/services.yaml").read_text().replace("ready: {grpc: grpc}", "redy: {}", 1))
    with pytest.raises(StackError, match=r"processes\.inference\.(ready|redy)"):
        load_processes(Settings(state=tmp_path), table)


def test_taken_ports_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        processes = load_processes(Settings(state=tmp_path, port_offset=30_000, ports={"gateway.rest": port}))
        with pytest.raises(StackError, match=rf"gateway\.rest \({port}\)"):
            require_free(processes)


def test_keys_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    ensure_identity_keys(tmp_path / "keys")
    first = (tmp_path / "keys/identity.pem").read_bytes()
    ensure_identity_keys(tmp_path / "keys")
    assert (tmp_path / "keys/identity.pem").read_bytes() == first
    assert stat.S_IMODE((tmp_path / "keys/identity.pem").stat().st_mode) == 0o600


def test_the_supervisors_configuration_keeps_odd_values_whole(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, toolchain=tmp_path / "a % of tools")
    processes = load_processes(settings)
    text = Supervisor(tmp_path)._configuration(processes)
    parsed = configparser.ConfigParser(delimiters=("=",), inline_comment_prefixes=(";",))
    parsed.read_string(text)
    assert {f"program:{process.name}" for process in processes} <= set(parsed.sections())
    assert "a % of tools" in parsed["program:triton"]["command"]
    assert parsed["program:gateway"]["autorestart"] == "true"


def test_a_state_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(StackError, match="PENSTOCK_STATE"):
        Supervisor(Path("/" + "x" * 120))


def test_elsewhere_than_on_linux_x86_64_it_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module.platform, "machine", lambda: "arm64")
    with pytest.raises(StackError, match="Linux x86-64"):
        stack_module.require_platform()
