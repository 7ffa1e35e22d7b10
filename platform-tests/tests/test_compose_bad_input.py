"""What a container lacks or has wrong is said in one line, with the exit status 2, and nothing half works."""

import socket
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from compose_stack import ComposeSettings, compose_command, surroundings
from stack_process import ROOT

from deploy.images import make_secrets

SETTINGS = ComposeSettings()
START_S = 60
REFUSED = 2
NOW = datetime.now(UTC)
pytestmark = pytest.mark.skipif(not SETTINGS.compose, reason="`make compose-test` runs this")


def started(
    service: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[Path, str] | None = None,
    arguments: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the image of a service as compose does, without a network, until it ends."""
    told = [f"--env={name}={value}" for name, value in (environment or {}).items()]
    seen = [f"--volume={place.absolute()}:{path}" for place, path in (mounts or {}).items()]
    image = f"penstock/{service}:{SETTINGS.compose_version}"
    command = ["docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", "--network=none", "--cap-drop=ALL"]
    return subprocess.run(
        [*command, *told, *seen, *options, image, *arguments],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line that says why a container ended; assert that there is one, last, and no traceback."""
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == REFUSED, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What `setup` makes, in a folder, readable by the containers' user."""
    (tmp_path / "redis-data").mkdir()
    make_secrets.make(tmp_path, NOW, rotate=False)
    return readable(tmp_path)


def readable(folder: Path) -> Path:
    """Let everybody read a folder and all in it."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    return folder


def test_a_missing_secret() -> None:
    done = started("gateway", environment={"PENSTOCK_SECRETS": "GATEWAY_DATABASE_URL"})
    assert refused(done).startswith("penstock: the secret GATEWAY_DATABASE_URL is missing")


def test_a_missing_identity_key() -> None:
    key = {"EMBEDDING_IDENTITY_PUBLIC_KEY_FILE": "/etc/penstock/keys/identity.pub.pem"}
    tokenizer = {"EMBEDDING_TOKENIZER_FILE": "/models/minilm-l6/tokenizer.json"}
    assert refused(started("embedding", environment=key | tokenizer)).endswith(
        "/etc/penstock/keys/identity.pub.pem: No such file or directory"
    )


def with_mtls(folder: Path) -> str:
    """Start a service with certificates and return why it would not."""
    told = {
        "PENSTOCK_MTLS": "on",
        "EMBEDDING_TOKENIZER_FILE": "/models/minilm-l6/tokenizer.json",
        "EMBEDDING_IDENTITY_PUBLIC_KEY_FILE": "/etc/penstock/keys/identity.pub.pem",
    }
    return refused(started("embedding", environment=told, mounts={folder: "/etc/penstock:ro"}))


def test_an_expired_certificate(tmp_path: Path) -> None:
    (tmp_path / "redis-data").mkdir()
    made = NOW - timedelta(days=make_secrets.CERTIFICATE_DAYS + 1)
    make_secrets.make(tmp_path, made, rotate=False)
    said = with_mtls(readable(tmp_path) / "embedding")
    assert f"tls.crt is valid from {made:%Y-%m-%d}" in said
    assert "and today is" in said


def test_the_certificate_of_another_authority(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "redis-data").mkdir()
    make_secrets.make(other, NOW, rotate=False)
    file = secrets / "embedding/tls/ca.crt"
    file.chmod(0o644)
    file.write_bytes((other / "embedding/tls/ca.crt").read_bytes())
    assert "was not issued by the authority" in with_mtls(secrets / "embedding")


def gateway(secrets: Path, *options: str, data: Path | None = None, **more: str) -> str:
    """Start a gateway and return why it would not."""
    keys = {
        "GATEWAY_IDENTITY_PUBLIC_KEY_FILE": "/etc/penstock/keys/identity.pub.pem",
        "GATEWAY_IDENTITY_PRIVATE_KEY_FILE": "/etc/penstock/keys/identity.pem",
        "GATEWAY_CONFIGURATION_FILE": "/configuration/gateway.yaml",
        "GATEWAY_JOURNAL_FOLDER": "/tmp/journal",
    }
    mounts = {secrets / "gateway": "/etc/penstock:ro", ROOT / "deploy/local": "/configuration:ro"}
    kept = {data: "/var/lib/penstock"} if data else {}
    return refused(started("gateway", *options, environment=keys | more, mounts=mounts | kept))


def test_a_database_that_cannot_be_reached(secrets: Path) -> None:
    said = gateway(secrets, GATEWAY_DATABASE_URL="postgresql://gateway:secret-word@127.0.0.1:5432/gateway")
    assert "the key store cannot be used" in said
    assert "secret-word" not in said


def test_a_database_of_a_newer_version(secrets: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with closing(sqlite3.connect(data / "gateway.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    for path in (data, data / "gateway.db"):
        path.chmod(0o777)
    said = gateway(secrets, data=data, GATEWAY_KEY_DATABASE="/var/lib/penstock/gateway.db")
    assert "the database is of a version that this program does not know" in said
    assert "9999" in said


def test_a_setting_that_cannot_be(secrets: Path) -> None:
    assert "GATEWAY_ADDRESS" in gateway(secrets, GATEWAY_ADDRESS="here")


def test_too_little_memory() -> None:
    said = refused(started("gateway", "--memory=64m"))
    assert said.startswith("penstock: the memory limit is 64 MiB, and gateway needs")


SERVE = ("-m", "model_repository", "serve", "--repository", "/models", "--triton-env", "/opt/penstock/env/triton")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((*SERVE, "--load", "minilm-l6"), "error: not in /models: minilm-l6"), ((), "error: no model in /models")],
)
def test_a_model_store_without_the_model(tmp_path: Path, arguments: Sequence[str], said: str) -> None:
    if arguments:
        (tmp_path / "other").mkdir()
        (tmp_path / "other/config.pbtxt").write_text('name: "other"')
    backends = "--tmpfs=/opt/penstock/env/triton/backends:exec,uid=10001,gid=10001,mode=0755"
    done = started("triton", backends, arguments=arguments, mounts={readable(tmp_path): "/models:ro"})
    assert done.returncode == 1
    assert (done.stdout + done.stderr).strip() == said


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = {"COMPOSE_PROJECT_NAME": "penstock-port", "PENSTOCK_REST_PORT": str(port)}
        done = subprocess.run(
            [str(ROOT / "deploy/compose/up"), "default"],
            env=surroundings() | told,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == f"port {port} is taken: PENSTOCK_REST_PORT names another"
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter=label=com.docker.compose.project=penstock-port"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == ""


@pytest.mark.parametrize("file", [None, *sorted(path.name for path in (ROOT / "deploy/compose").glob("*.env"))])
def test_no_profile_warns_of_anything_when_no_variable_is_set(file: str | None) -> None:
    profile = () if file is None else ("--env-file", str(ROOT / "deploy/compose" / file))
    done = subprocess.run(
        [*compose_command(), *profile, "config", "--quiet"],
        cwd=ROOT,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
