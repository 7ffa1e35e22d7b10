"""What the metrics say of calls, in the names of the GenAI conventions."""

import asyncio

import pytest
from gateway.core.call_measures import CallMeasures, Took
from prometheus_client import REGISTRY
from servicekit.errors import Unavailable

MODELS = ("openai", "an-alias", "a-model")


def sample(name: str, operation: str = "chat", error: str = "", **more: str) -> float:
    provider, asked, served = MODELS
    labels = {
        "gen_ai_operation_name": operation,
        "gen_ai_provider_name": provider,
        "gen_ai_request_model": asked,
        "gen_ai_response_model": served,
    }
    labels |= more or {"error_type": error}
    return REGISTRY.get_sample_value(name, labels) or 0.0


def overhead(what: str) -> float:
    return (
        REGISTRY.get_sample_value(f"penstock_gateway_overhead_seconds_{what}", {"gen_ai_operation_name": "chat"}) or 0
    )


def test_a_stream_tells_its_first_token_and_the_pace_of_the_others() -> None:
    before = sample("gen_ai_server_time_per_output_token_seconds_sum"), overhead("sum")
    CallMeasures().served("chat", MODELS, Took(2.1, 0.1, 2.0, 7, 21, reported=True))
    assert sample("gen_ai_server_time_to_first_token_seconds_sum") == pytest.approx(0.1)
    assert sample("gen_ai_server_time_per_output_token_seconds_sum") - before[0] == pytest.approx(0.1)
    assert overhead("sum") - before[1] == pytest.approx(0.1)
    assert sample("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 7
    assert sample("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 21


def test_a_whole_answer_has_no_first_token_and_an_untold_backend_no_overhead() -> None:
    before = sample("gen_ai_server_time_to_first_token_seconds_count"), overhead("count")
    calls = sample("gen_ai_server_request_duration_seconds_count")
    CallMeasures().served("chat", MODELS, Took(0.5, None, 0.0, 7, 21, reported=False))
    assert sample("gen_ai_server_request_duration_seconds_count") == calls + 1
    assert (sample("gen_ai_server_time_to_first_token_seconds_count"), overhead("count")) == before


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (Unavailable("away", reason="backend_failed"), "backend_failed"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (ZeroDivisionError("secret"), "ZeroDivisionError"),
    ],
)
def test_a_failure_is_named_by_its_kind(error: BaseException, named: str) -> None:
    before = sample("gen_ai_server_request_duration_seconds_count", error=named)
    CallMeasures().failed("chat", MODELS, error, 0.2)
    assert sample("gen_ai_server_request_duration_seconds_count", error=named) == before + 1


@pytest.mark.parametrize(("kind", "operation"), [("embed", "embeddings"), ("ask", "invoke_workflow")])
def test_calls_have_the_conventions_names(kind: str, operation: str) -> None:
    before = sample("gen_ai_server_request_duration_seconds_count", operation)
    CallMeasures().served(kind, MODELS, Took(0.5, None, 0.0, 7, 0, reported=True))
    assert sample("gen_ai_server_request_duration_seconds_count", operation) == before + 1


def test_calls_that_the_conventions_do_not_know_are_left_to_the_doors() -> None:
    measures = CallMeasures()
    measures.served("tensor", MODELS, Took(0.5, None, 0.0, 0, 0, reported=False))
    measures.failed("ingest", MODELS, Unavailable("away"), 0.1)
    assert sample("gen_ai_server_request_duration_seconds_count", "tensor") == 0
    assert sample("gen_ai_server_request_duration_seconds_count", "ingest") == 0
