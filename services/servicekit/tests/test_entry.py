"""What keeps a service from starting is said in one line and a status, and never as a traceback."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from servicekit import entry
from servicekit.errors import Unavailable
from servicekit.settings import ServiceSettings


class Settings(ServiceSettings):
    """A service's own."""

    address: str = "127.0.0.1:0"
    metrics_address: str = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Take back what a start does to the logging of the process, which later tests would write to."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def never(settings: Settings) -> NoReturn:
    raise AssertionError("it must not come so far")


def refusal(capsys: pytest.CaptureFixture[str], run: object = never) -> str:
    """Return the one line that a start ends with."""
    with pytest.raises(SystemExit) as stopped:
        entry.main("thing", Settings, run)  # type: ignore[arg-type]
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("thing: ")
    assert said.count("\n") == 1, said
    return said


def test_an_unreachable_database_is_named_with_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    async def unreachable(settings: Settings) -> NoReturn:
        try:
            raise OSError(111, "Connect call failed ('192.0.2.1', 5432)")
        except OSError as error:
            raise Unavailable("the key store cannot be used") from error

    said = refusal(capsys, unreachable)
    assert "the key store cannot be used" in said
    assert "192.0.2.1" in said


def test_a_missing_secret_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async def reading(settings: Settings) -> NoReturn:
        (tmp_path / "identity.pem").read_bytes()
        raise AssertionError("it is not there")

    assert f"{tmp_path}/identity.pem: No such file or directory" in refusal(capsys, reading)


def test_half_a_certificate_is_no_reason_to_speak_in_the_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLS_CERTIFICATE_FILE", "/tls.crt")
    assert "belong together" in refusal(capsys)


def test_a_certificate_that_cannot_be_read_stops_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, name in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("CA", "ca.crt")):
        monkeypatch.setenv(f"TLS_{variable}_FILE", str(tmp_path / name))
    assert f"{tmp_path}/tls.crt cannot be read" in refusal(capsys)


def test_a_bug_stays_a_traceback() -> None:
    async def broken(settings: Settings) -> NoReturn:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        entry.main("thing", Settings, broken)
