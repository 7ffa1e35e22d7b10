"""Starts the Triton server that comes inside the nvidia-pytriton wheel, on a machine without containers or a GPU."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies; the Python backend makes its regions there
SHM_REGION_BYTES = 1 << 20
EXIT_TIMEOUT_S = 10
WATCHDOG = Path(__file__).with_name("stub_watchdog.py")


class LaunchError(RuntimeError):
    """Triton cannot be started; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the server listens, all on one address."""

    address: str
    grpc_port: int
    http_port: int
    metrics_port: int


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """The virtual environment that `requirements/triton.lock` describes."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def site_packages(self) -> Path:
        """Return its site-packages; raise LaunchError when the environment is not there or not complete."""
        found = list(self.folder.glob("lib/python3.*/site-packages/pytriton/tritonserver"))
        if not found:
            raise LaunchError(f"{self.folder} is no Triton environment: install requirements/triton.lock into it")
        return found[0].parents[1]

    def library_folder(self) -> Path:
        """Return the folder of the interpreter's own shared library, which the backend's stub loads."""
        program = "import sysconfig; print(*sysconfig.get_config_vars('LIBDIR', 'MULTIARCH', 'INSTSONAME'), sep='\\n')"
        asked = subprocess.run([self.python, "-c", program], check=True, capture_output=True, text=True)  # noqa: S603
        folder, architecture, name = asked.stdout.splitlines()
        for candidate in (Path(folder), Path(folder) / architecture):
            if (candidate / name).exists() and ".so" in name:
                return candidate
        raise LaunchError(
            f"{self.python} has no shared libpython in {folder}, which Triton's Python backend needs; "
            "on Debian install libpython3.11, or make the environment with another Python"
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a start of the server needs; `trace_endpoint` is the OTLP/HTTP URL for its spans, or nothing."""

    environment: TritonEnvironment
    repository: Path
    models: Sequence[str]
    endpoints: Endpoints
    trace_endpoint: str | None = None

    @property
    def shm_prefix(self) -> str:
        """Names this server's shared memory: one server per gRPC port can live on a machine."""
        return f"penstock-{self.endpoints.grpc_port}-"

    def command(self, site: Path, backends: Path) -> list[str]:
        """Return the command line of tritonserver 2.51."""
        at = self.endpoints
        options = [
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-default-byte-size={SHM_REGION_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={SHM_REGION_BYTES}",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.models),
            "--exit-on-error=false",
            "--strict-readiness=false",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            *(f"--{protocol}-address={at.address}" for protocol in ("grpc", "http", "metrics")),
            f"--grpc-port={at.grpc_port}",
            f"--http-port={at.http_port}",
            f"--metrics-port={at.metrics_port}",
            "--http-thread-count=2",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ]
        return [str(site / "pytriton/tritonserver/bin/tritonserver"), *options, *self._tracing()]

    def _tracing(self) -> list[str]:
        if not self.trace_endpoint:
            return []
        settings = ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS", f"opentelemetry,url={self.trace_endpoint}")
        return [f"--trace-config={setting}" for setting in (*settings, "opentelemetry,resource=service.name=triton")]


def start_triton(launch: Launch) -> None:
    """Become the Triton server: this process is replaced, so that its signals and its pid are the server's.

    A watchdog stays beside it, because the server does not notice when a backend process of it is gone.
    Raises LaunchError.
    """
    missing = [name for name in launch.models if not (launch.repository / name / "config.pbtxt").exists()]
    if missing:
        raise LaunchError(f"not in {launch.repository}: {', '.join(missing)}")
    site = launch.environment.site_packages()
    libraries = f"{site / 'nvidia_pytriton.libs'}:{launch.environment.library_folder()}"
    backends = prepare_backends(launch.environment, site)
    remove_stale_shm(launch.shm_prefix)
    variables = {
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": str(site),
        "PYTHONUNBUFFERED": "1",
        # Without it ONNX Runtime gives the machine an id, keeps events in a file and sends them to its maker.
        "ORT_DISABLE_TELEMETRY": "1",
        # Idle arenas of many threads would hold memory that is never used again.
        "MALLOC_ARENA_MAX": "2",
        # As soon as NumPy is imported, OpenBLAS has a thread for each core spin, in every backend process.
        "OPENBLAS_NUM_THREADS": "1",
        # A load keeps one core busy at a time, whatever the number of a model's instances.
        "TRITON_PARALLEL_INSTANCE_LOADING": "0",
        "PATH": f"{launch.environment.folder / 'bin'}:{os.defpath}",
    }
    command = launch.command(site, backends)
    subprocess.Popen([sys.executable, "-I", "-S", str(WATCHDOG), str(os.getpid())])  # noqa: S603
    os.execve(command[0], command, variables)  # noqa: S606 - no shell: the server takes this process's place


def prepare_backends(environment: TritonEnvironment, site: Path) -> Path:
    """Return a backend directory with the Python backend and the stub of the environment's Python side by side."""
    server = site / "pytriton/tritonserver"
    version = site.parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise LaunchError(f"Triton's Python backend has no stub for Python {version}")
    folder = environment.folder / "backends" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*(server / "backends/python").iterdir(), stub):
        if source.is_file() and not (folder / source.name).exists():
            shutil.copy2(source, folder / source.name)
    return folder.parent


def remove_stale_shm(prefix: str) -> int:
    """Delete the shared memory that a killed server with this prefix left; return how many regions there were."""
    stale = list(SHM.glob(f"{prefix}*"))
    for region in stale:
        region.unlink(missing_ok=True)
    return len(stale)
