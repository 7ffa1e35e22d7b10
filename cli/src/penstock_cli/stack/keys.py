"""Keys of an installation: made once, at random, readable by their owner alone."""

import json
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from penstock_cli.settings import inherited
from penstock_cli.stack.table import HOST, Process, StackError

DEV_TENANT = "demo"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.replace(path)


def ensure_identity_keys(folder: Path) -> None:
    """Make the key pair that internal tokens are signed and verified with, unless it is there."""
    private, public = folder / "identity.pem", folder / "identity.pub.pem"
    if private.exists() and public.exists():
        return
    key = Ed25519PrivateKey.generate()
    write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_private(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def ensure_dev_keys(dev_env: Path, gateway: Process) -> None:
    """Create a tenant key and an admin key in the gateway's database and note them in `dev.env`, unless that is done.

    The addresses in the file are written again each time: ports may have changed.
    """
    kept = _read(dev_env)
    for variable, arguments in (
        ("PENSTOCK_API_KEY", ["--tenant", DEV_TENANT, "--name", "dev"]),
        ("PENSTOCK_ADMIN_KEY", ["--tenant", DEV_TENANT, "--name", "dev-admin", "--admin"]),
    ):
        if variable not in kept:
            kept[variable] = _create_key(arguments, gateway)
    kept["PENSTOCK_URL"] = f"http://{HOST}:{gateway.ports['rest']}"
    kept["PENSTOCK_GRPC"] = f"{HOST}:{gateway.ports['grpc']}"
    write_private(dev_env, "".join(f"{name}={value}\n" for name, value in sorted(kept.items())).encode())


def _read(dev_env: Path) -> dict[str, str]:
    if not dev_env.exists():
        return {}
    return dict(line.split("=", 1) for line in dev_env.read_text().splitlines() if "=" in line)


def _create_key(arguments: list[str], gateway: Process) -> str:
    command = [sys.executable, "-m", "gateway.admin", "create", *arguments]
    environment = {**inherited(), **gateway.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"the gateway could not create a key: {done.stderr.strip()}")
    return str(json.loads(done.stdout)["key"])
