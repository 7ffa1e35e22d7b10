"""The configuration file that the local gateway follows, in the state directory."""

from pathlib import Path

from penstock_cli.settings import Settings
from penstock_cli.stack.keys import write_private


def live_file(settings: Settings) -> Path:
    """Return the file that the local gateway follows."""
    return settings.state / "gateway.yaml"


def ensure_live_file(settings: Settings) -> None:
    """Put the sample in force where no configuration is yet."""
    if not live_file(settings).exists():
        write_private(live_file(settings), settings.configuration.read_bytes())
