"""The programs inside the images: what a container needs is made or named, and backups are whole or refused."""

import stat
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deploy.images import archive, make_secrets, start

NOW = datetime.now(UTC)


def environment(**more: str) -> dict[str, str]:
    return {"PENSTOCK_SERVICE": "vector-search", **more}


def test_secrets_become_variables_and_empty_variables_are_none(tmp_path: Path) -> None:
    (tmp_path / "VECTOR_SEARCH_URL").write_text("postgresql://a:b@c/d\n")
    given = environment(PENSTOCK_SECRETS="VECTOR_SEARCH_URL", VECTOR_SEARCH_OTLP_ENDPOINT="", OTHER="")
    assert start.prepare(given, tmp_path) == "vector-search"
    assert given["VECTOR_SEARCH_URL"] == "postgresql://a:b@c/d"
    assert "VECTOR_SEARCH_OTLP_ENDPOINT" not in given
    assert given["OTHER"] == ""


def test_mtls_names_the_mounted_files(tmp_path: Path) -> None:
    given = environment(PENSTOCK_MTLS="on")
    start.prepare(given, tmp_path)
    assert given["VECTOR_SEARCH_TLS_KEY_FILE"] == "/etc/penstock/tls/tls.key"
    assert len([name for name in given if "_TLS_" in name]) == 3


@pytest.mark.parametrize(("content", "said"), [(None, "is missing"), ("", "is empty"), ("\n", "is empty")])
def test_a_missing_secret_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "SOME_URL").write_text(content)
    with pytest.raises(start.BadStart, match=f"the secret SOME_URL {said}"):
        start.prepare(environment(PENSTOCK_SECRETS="SOME_URL"), tmp_path)


def test_a_second_copy_does_not_start_without_shared_stores(tmp_path: Path) -> None:
    with pytest.raises(start.BadStart, match=r"scale\.env"):
        start.prepare(environment(PENSTOCK_REFUSAL="the profile scale needs --env-file scale.env"), tmp_path)


@pytest.mark.parametrize(
    ("limit", "refused"), [("67108864", True), (str(512 * 2**20), False), ("max", False), (str(2**63 - 4096), False)]
)
def test_a_memory_limit_that_cannot_hold_the_service_is_refused(tmp_path: Path, limit: str, refused: bool) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    with (
        pytest.raises(start.BadStart, match=r"limit is 64 MiB, and gateway needs \d+ MiB") if refused else nullcontext()
    ):
        start.check_memory("gateway", [tmp_path / "none", tmp_path / "memory.max"])


def test_every_service_has_a_least_memory_and_every_limit_is_above_it() -> None:
    limits = {name: each["mem_limit"] for name, each in compose_services().items() if "mem_limit" in each}
    assert set(start.LEAST_MIB) == set(make_secrets.SERVICES)
    for name, least in start.LEAST_MIB.items():
        default = limits[name].rpartition(":-")[2].rstrip("}")
        assert default.endswith("m")
        assert int(default[:-1]) >= 3 * least


def compose_services() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text("utf-8"))["services"])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "redis-data").mkdir()
    make_secrets.make(tmp_path, NOW, rotate=False)
    return tmp_path


def content(folder: Path, names: str = "*") -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob(names)) if file.is_file()}


def test_secrets_are_made_once(made: Path) -> None:
    before = content(made)
    make_secrets.make(made, NOW, rotate=False)
    assert content(made) == before


def test_rotating_changes_certificates_and_nothing_else(made: Path) -> None:
    before = content(made)
    make_secrets.make(made, NOW, rotate=True)
    changed = {file.name for file, value in content(made).items() if value != before[file]}
    assert changed == {"tls.crt", "tls.key"}


def test_only_the_gateway_can_sign_and_only_setup_can_certify(made: Path) -> None:
    private = [file.relative_to(made) for file in made.rglob("*") if file.is_file() and b"PRIVATE" in file.read_bytes()]
    own = {Path(service, "tls/tls.key") for service in make_secrets.SERVICES}
    assert set(private) == own | {
        Path("gateway/keys/identity.pem"),
        Path("kept/identity.pem"),
        Path("kept/authority.key"),
    }
    for file in private:
        assert stat.S_IMODE((made / file).stat().st_mode) == 0o400, file


def test_passwords_are_random_and_agree(made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "redis-data").mkdir()
    make_secrets.make(other, NOW, rotate=False)
    for name in make_secrets.DATABASES:
        password = (made / "postgres" / f"{name}-password").read_text()
        assert len(password) == 48
        assert password in (made / name / "secrets" / f"{name.upper()}_DATABASE_URL").read_text()
        assert password != (other / "postgres" / f"{name}-password").read_text()


def test_a_certificate_is_of_its_key_its_authority_and_its_names(made: Path) -> None:
    folder = made / "inference/tls"
    certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))
    key = load_pem_private_key((folder / "tls.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"inference", "inference-2", "localhost"} == set(names.get_values_for_type(x509.DNSName))


def test_a_damaged_certificate_is_made_anew(made: Path) -> None:
    file = made / "gateway/tls/tls.crt"
    file.chmod(0o600)
    file.write_text("nonsense")
    make_secrets.make(made, NOW, rotate=False)
    assert not make_secrets.ends_soon(file, NOW)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    folder = tmp_path / "volumes"
    for name in ("gateway-data", "empty-data"):
        (folder / name).mkdir(parents=True)
    (folder / "gateway-data/journal").mkdir(mode=0o700)
    (folder / "gateway-data/journal/1").write_bytes(b"\x00row")
    (folder / "gateway-data/gateway.db").write_bytes(b"SQLite")
    (folder / "gateway-data/gateway.db").chmod(0o600)
    (tmp_path / "backup").mkdir()
    (tmp_path / "fresh/gateway-data").mkdir(parents=True)
    return tmp_path


def test_what_is_restored_is_what_was_saved(volumes: Path) -> None:
    assert archive.save(volumes / "volumes", volumes / "backup") == ["gateway-data"]
    assert archive.restore(volumes / "fresh", volumes / "backup") == ["gateway-data"]
    restored = volumes / "fresh/gateway-data"
    assert (restored / "journal/1").read_bytes() == b"\x00row"
    assert stat.S_IMODE((restored / "gateway.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((restored / "journal").stat().st_mode) == 0o700


def test_nothing_is_overwritten(volumes: Path) -> None:
    archive.save(volumes / "volumes", volumes / "backup")
    with pytest.raises(archive.BadBackup, match="holds a backup already"):
        archive.save(volumes / "volumes", volumes / "backup")
    with pytest.raises(archive.BadBackup, match="gateway-data is not empty"):
        archive.restore(volumes / "volumes", volumes / "backup")


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "newer format"])
def test_a_damaged_backup_is_refused_before_anything_is_written(volumes: Path, damage: str) -> None:
    archive.save(volumes / "volumes", volumes / "backup")
    file, manifest = volumes / "backup/gateway-data.tar.gz", volumes / "backup/manifest.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(archive.BadBackup):
        archive.restore(volumes / "fresh", volumes / "backup")
    assert list((volumes / "fresh/gateway-data").iterdir()) == []
