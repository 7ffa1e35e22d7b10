"""Turns tracing on for a process, from its settings."""

from pathlib import Path

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from servicekit.telemetry import logs
from servicekit.telemetry.span_file import FileSpanExporter
from servicekit.telemetry.tracing import ROOTS


def configure(service: str, log_level: str, otlp_endpoint: str | None, trace_file: Path | None, ratio: float) -> None:
    """Set up logs, and spans to the collector, to the file, to both or to neither."""
    logs.configure(service, log_level)
    if otlp_endpoint is None and trace_file is None:
        return
    resource = Resource.create({"service.name": service, "service.namespace": "penstock"})
    ROOTS.ratio = ratio
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource)
    if otlp_endpoint is not None:
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
    if trace_file is not None:
        provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(trace_file), schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
