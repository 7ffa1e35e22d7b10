"""Translates the calls about what is in the servers' memory."""

from collections.abc import Mapping
from typing import Any

from penstock.inference.v1 import residency_pb2 as pb
from penstock.inference.v1 import residency_pb2_grpc as pb_grpc
from servicekit.errors import NotFound
from servicekit.rpc import Service

from inference.core.device import Copy, Device
from inference.core.residency import Residency


class ResidencyServicer(pb_grpc.ResidencyServiceServicer):
    """Serves the list of devices."""

    def __init__(self, groups: Mapping[str, Residency]) -> None:
        """Take the groups whose models are loaded on request, by their names in the catalogue."""
        self._groups = groups

    async def ListDevices(self, request: pb.ListDevicesRequest, _context: Any) -> pb.ListDevicesResponse:
        """List the devices of one group, or of all."""
        if request.server and request.server not in self._groups:
            raise NotFound(f"no server {request.server[:200]!r} loads models on request", field="server")
        names = [request.server] if request.server else sorted(self._groups)
        devices = [_device(name, each) for name in names for each in self._groups[name].devices()]
        return pb.ListDevicesResponse(devices=devices)


def _device(server: str, device: Device) -> pb.Device:
    return pb.Device(
        server=server,
        address=device.address,
        alive=device.alive,
        ailment=device.ailment,
        budget_bytes=device.budget_bytes,
        charged_bytes=device.charged_bytes,
        unexplained_bytes=device.unexplained_bytes,
        residents=[_resident(device.copies[model]) for model in sorted(device.copies)],
    )


def _resident(copy: Copy) -> pb.Resident:
    return pb.Resident(
        model=copy.model, stage=copy.stage.value, bytes=copy.bytes_, measured=copy.measured, leases=copy.leases
    )


def residency_service(groups: Mapping[str, Residency]) -> Service:
    """Return the service; addresses are for administrators."""
    return Service(
        "penstock.inference.v1.ResidencyService",
        pb_grpc.add_ResidencyServiceServicer_to_server,
        ResidencyServicer(groups),
        {"ListDevices": "admin"},
    )
