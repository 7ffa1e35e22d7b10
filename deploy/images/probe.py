"""The health check of an image: asks its service where, and as, the service's own settings say."""

import os
import sys
from pathlib import Path

from servicekit.healthcheck import Target, Unhealthy, check

PLAIN_DOORS = {"gateway", "triton"}
"""What is also called from outside, or is no service of ours: mTLS is between the others."""


def asked() -> Target:
    """Return what to ask; raise Unhealthy where the environment does not say."""
    service = os.environ["PENSTOCK_SERVICE"]  # noqa: TID251  these are the settings of the service itself
    prefix = service.replace("-", "_").upper()
    certificate = os.environ.get(f"{prefix}_TLS_CERTIFICATE_FILE", "")  # noqa: TID251
    if os.environ.get("PENSTOCK_MTLS") == "on":  # noqa: TID251
        certificate = "/etc/penstock/tls/tls.crt"
    tls = Path(certificate).parent if certificate and service not in PLAIN_DOORS else None
    return Target.parse(os.environ.get(f"{prefix}_ADDRESS", ""), tls)  # noqa: TID251


if __name__ == "__main__":
    try:
        check(asked())
    except Unhealthy as reason:
        sys.stdout.write(f"unhealthy: {reason}\n")
        sys.exit(1)
