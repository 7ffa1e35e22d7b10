"""What `penstock residency` prints."""

import io

from penstock.inference.v1 import residency_pb2 as pb
from penstock_cli.main import app
from penstock_cli.residency import show_devices
from rich.console import Console
from typer.testing import CliRunner

MIB = 1 << 20


def test_a_line_for_each_server_and_each_model_in_it() -> None:
    there = [
        pb.Resident(model="[b]big", stage="ready", bytes=300 * MIB, measured=True, leases=3),
        pb.Resident(model="new", stage="loading", bytes=100 * MIB),
    ]
    devices = [
        pb.Device(
            server="gpu",
            address="10.0.0.1:8001",
            alive=True,
            budget_bytes=2048 * MIB,
            charged_bytes=400 * MIB,
            unexplained_bytes=7 * MIB,
            residents=there,
        ),
        pb.Device(server="gpu", address="10.0.0.2:8001", alive=True, ailment="leaking", budget_bytes=2048 * MIB),
        pb.Device(server="gpu", address="10.0.0.3:8001", budget_bytes=2048 * MIB),
    ]
    out = io.StringIO()
    show_devices(Console(file=out, width=160), devices)
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines == [
        "server address model stage memory in use",
        "gpu 10.0.0.1:8001 well 400 MiB of 2,048 MiB, 7 MiB unexplained",
        "[b]big ready 300 MiB 3",
        "new loading 100 MiB assumed 0",
        "gpu 10.0.0.2:8001 restart it: leaking 0 MiB of 2,048 MiB",
        "gpu 10.0.0.3:8001 down 0 MiB of 2,048 MiB",
    ]


def test_the_command_is_there() -> None:
    told = CliRunner().invoke(app, ["residency", "--help"])
    assert told.exit_code == 0
    assert "memory" in told.output
