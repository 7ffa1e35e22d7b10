"""The catalogue file: what it may say, and what is said of its mistakes."""

from pathlib import Path

import pytest
from inference.adapters.catalogue_file import (
    CatalogueError,
    KubernetesEntry,
    ServerEntry,
    read_catalogue,
    read_golden_file,
)
from inference.adapters.openai import Patience
from inference.core.capacity import USUAL_OBJECTIVE, Kind, Objective
from inference.core.catalogue import Price, Provider, QueueLimits, Task
from inference.core.generation import Sampling
from inference.core.prompts import PromptFormat
from inference.core.replica import Timing

GOOD = """
servers: {local: {address: "127.0.0.1:8091"}}
upstreams: {cloud: {base_url: "https://models.example.com/v1", api_key_env: CLOUD_KEY}}
models:
  - {name: encoder, task: embed, triton: {server: local, model: enc}}
  - name: chat
    task: generate
    openai: {upstream: cloud, model: big}
    context_tokens: 1000
    queue: {max_concurrent: 3, max_waiting: 4}
    timeout_s: 7
    description: Big
    sampling: {max_tokens: 50, temperature: 0.1, stop: ["x"]}
  - {name: reader, task: generate, triton: {server: local, model: reader, prompt: chatml}}
"""
WRONG = [
    (
        "server: local, model: reader",
        "server: loacl, model: reader",
        'models[2].triton.server: no server "loacl" is declared',
    ),
    ("task: embed", "taks: embed", "models[0].taks: Extra inputs are not permitted"),
    ("task: embed", "taks: embed", "models[0].task: Field required"),
    (
        "max_concurrent: 3",
        "max_concurrent: 0",
        "models[1].queue.max_concurrent: Input should be greater than or equal to 1",
    ),
    (
        "max_concurrent: 3",
        "max_concurrent: 3, least_concurrent: 4",
        "models[1].queue: least_concurrent is more than max_concurrent",
    ),
    ("timeout_s: 7", "objective: {seconds: 0}", "models[1].objective.seconds: Input should be greater than 0"),
    (
        "timeout_s: 7",
        "objective: {seconds: 1, quantile: 99}",
        "models[1].objective.quantile: Input should be less than 1",
    ),
    ("timeout_s: 7", "objective: {seconds: 1, kind: speed}", "models[1].objective.kind: Input should be 'wait' or"),
    ("upstream: cloud", "upstream: clod", 'models[1].openai.upstream: no upstream "clod" is declared'),
    ("name: reader", "name: encoder", "models[2].name: models[0] has the name 'encoder' already"),
    (", triton: {server: local, model: enc}", "", "models[0]: exactly one of triton and openai is needed"),
    ("name: encoder", "name: 'rag:x'", "models[0].name: String should match pattern"),
    ("127.0.0.1:8091", "http://x", "servers.local.address: String should match pattern"),
    ('address: "127.0.0.1:8091"', "addresses: []", "servers.local.addresses: List should have at least 1 item"),
    ('address: "127.0.0.1:8091"', "probe_period_s: 1", "servers.local: exactly one of address, addresses, dns and"),
    (
        'address: "127.0.0.1:8091"',
        'address: "a:1", dns: "b:1"',
        "servers.local: exactly one of address, addresses, dns",
    ),
    ('address: "127.0.0.1:8091"', 'addresses: ["a:1", "a:1"]', "servers.local: an address stands in addresses twice"),
    ('address: "127.0.0.1:8091"', 'addresses: ["a:1", "b"]', "servers.local.addresses[1]: String should match pattern"),
    ('address: "127.0.0.1:8091"', "dns: triton", "servers.local.dns: String should match pattern"),
    (
        'address: "127.0.0.1:8091"',
        "kubernetes: {service: 'a/../b', namespace: ai, port: 8001}",
        "servers.local.kubernetes.service: String should match pattern",
    ),
    (
        'address: "127.0.0.1:8091"',
        "kubernetes: {service: a, namespace: ai, port: 70000}",
        "servers.local.kubernetes.port: Input should be less than or equal to 65535",
    ),
    (
        '127.0.0.1:8091"',
        '127.0.0.1:8091", golden_period_s: 0',
        "servers.local.golden_period_s: Input should be greater",
    ),
    ("model: enc", "model: enc, golden: nowhere.json", "models[0].triton.golden: [Errno 2]"),
    ("model: big", "model: big, probe: {period_s: 0}", "models[1].openai.probe.period_s: Input should be greater"),
    ("model: big", "model: big, probe: {golden: nowhere.json}", "models[1].openai.probe.golden: [Errno 2]"),
    ("prompt: chatml", "prompt: chatml, tensors: trt", "models[2].triton.tensors: Input should be 'vllm' or"),
    ("prompt: chatml", "prompt: chatml, tensors: tensorrt_llm", "models[2]: tensorrt_llm needs sampling.max_tokens"),
    (
        "prompt: chatml",
        "prompt: chatml, cumulative: true",
        "models[2]: cumulative goes with the tensors of",
    ),
    ("model: enc", "model: enc, affinity: sticky", "models[0].triton.affinity: Input should be 'none' or 'prefix'"),
    ("https://", "https://me:secret@", "upstreams.cloud.base_url: a user or password has no place in an address"),
    ("https://", "https://me@", "upstreams.cloud.base_url: a user or password has no place in an address"),
    ("https://models.example.com", "https://:80", "upstreams.cloud.base_url: the address has no host"),
    ("models.example.com", "models.example.com:99999", "upstreams.cloud.base_url: Value error, Port out of range"),
    ("models.example.com", "модели.example", "upstreams.cloud.base_url: an address is written in ASCII"),
    ("CLOUD_KEY", "CLOUD_KEY, stall_timeout_s: 0", "upstreams.cloud.stall_timeout_s: Input should be greater than 0"),
    ("CLOUD_KEY", "CLOUD_KEY, answer_timeout_s: .nan", "upstreams.cloud.answer_timeout_s: Input should be"),
    ("model: big", "model: big, limit_field: n", "models[1].openai.limit_field: Input should be 'max_tokens' or"),
    ("https://", "ftp://", "upstreams.cloud.base_url: String should match pattern"),
    ("CLOUD_KEY", "CLOUD_KEY, api_key_file: k", "upstreams.cloud: take api_key_env or api_key_file, not both"),
    (
        "name: chat\n    task: generate",
        "name: chat\n    task: embed",
        "models[1]: a model of an upstream can only generate",
    ),
    ("prompt: chatml", "prompt: llama", "models[2].triton.prompt: Input should be 'plain' or 'chatml'"),
    ("context_tokens: 1000", "region: 'E U'", "models[1].region: String should match pattern"),
    (
        "context_tokens: 1000",
        "price: {input_usd_per_million: -1}",
        "models[1].price.input_usd_per_million: Input should be greater than or equal to 0",
    ),
    (
        "context_tokens: 1000",
        "price: {output_usd_per_million: 0.0000001}",
        "models[1].price.output_usd_per_million: Decimal input should have no more than 6 decimal places",
    ),
    ("context_tokens: 1000", "price: {input: 1}", "models[1].price.input: Extra inputs are not permitted"),
    ("context_tokens: 1000", "capabilities: [tools, magic]", "models[1].capabilities[1]: 'magic' is not possible here"),
    ("prompt: chatml}", "prompt: chatml}, capabilities: [tools]", "models[2].capabilities[0]: 'tools' is not possible"),
    ("temperature: 0.1", "temperature: 3", "models[1].sampling.temperature: Input should be less than or equal to 2"),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "catalogue.yaml"
    path.write_text(text, "utf-8")
    return path


def test_reads_entries_with_their_defaults(tmp_path: Path) -> None:
    encoder, chat, reader = read_catalogue(write(tmp_path, GOOD)).models
    assert (encoder.model().task, encoder.model().provider) == (Task.EMBED, Provider.TRITON)
    assert chat.model().queue == QueueLimits(3, 4)
    assert chat.model().sampling == Sampling(max_tokens=50, temperature=0.1, stop=("x",))
    assert chat.model().timeout_s == 7
    assert reader.triton is not None
    assert reader.triton.prompt is PromptFormat.CHATML


def test_a_model_tells_where_it_runs_what_it_can_and_what_it_costs_to_the_last_micro_dollar(tmp_path: Path) -> None:
    price = "price: {input_usd_per_million: 0.15, output_usd_per_million: 12.345678}"
    text = GOOD.replace("context_tokens: 1000", f"region: eu-west\n    capabilities: [tools, stop]\n    {price}")
    encoder, chat, reader = (each.model() for each in read_catalogue(write(tmp_path, text)).models)
    assert (chat.region, chat.capabilities) == ("eu-west", {"tools", "stop"})
    assert chat.price == Price(150_000, 12_345_678)
    assert (encoder.region, encoder.capabilities, encoder.price) == ("", frozenset(), None)
    assert reader.capabilities == {"seed", "stop"}


def test_what_an_upstream_can_do_when_nothing_is_said_is_all_but_audio(tmp_path: Path) -> None:
    chat = read_catalogue(write(tmp_path, GOOD)).models[1].model()
    assert {"tools", "json_schema", "vision", "n"} <= chat.capabilities
    assert "audio" not in chat.capabilities


def test_an_upstream_says_how_long_it_is_waited_for(tmp_path: Path) -> None:
    text = GOOD.replace("CLOUD_KEY", "CLOUD_KEY, connect_timeout_s: 1, first_byte_timeout_s: 2, stall_timeout_s: 3")
    assert read_catalogue(write(tmp_path, text)).upstreams["cloud"].patience() == Patience(1, 2, 3)
    assert read_catalogue(write(tmp_path, GOOD)).upstreams["cloud"].patience() == Patience()


def test_a_server_is_one_address_or_many_replicas(tmp_path: Path) -> None:
    def server(place: str) -> ServerEntry:
        return read_catalogue(write(tmp_path, GOOD.replace('address: "127.0.0.1:8091"', place))).servers["local"]

    assert server('address: "a:1"').fixed() == {"a:1"}
    assert server('addresses: ["a:1", "b:1"]').fixed() == {"a:1", "b:1"}
    assert (server('dns: "triton.ai:8001"').dns, server('dns: "triton.ai:8001"').fixed()) == ("triton.ai:8001", set())
    found = server("kubernetes: {service: triton, namespace: ai, port: 8001}").kubernetes
    assert found == KubernetesEntry(service="triton", namespace="ai", port=8001)
    assert server('address: "a:1", probe_period_s: 2, golden_period_s: 30, slow_start_s: 0').timing() == Timing(
        probe_period_s=2.0, golden_period_s=30.0, slow_start_s=0.0
    )


def test_golden_cases_beside_the_catalogue_are_read_and_checked(tmp_path: Path) -> None:
    text = GOOD.replace("model: enc", "model: enc, golden: golden.json")
    cases = '{"cases": [{"messages": [{"role": "user", "content": "Hi"}], "contains": ["there"]}]}'
    (tmp_path / "golden.json").write_text(cases, "utf-8")
    target = read_catalogue(write(tmp_path, text)).models[0].triton
    assert target is not None
    assert read_golden_file(target, tmp_path) == cases
    (tmp_path / "golden.json").write_text(cases.replace("contains", "contain"), "utf-8")
    with pytest.raises(CatalogueError, match=r"models\[0\].triton.golden: cases\[0\].contain: Extra inputs"):
        read_catalogue(write(tmp_path, text))


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new for _, new, _ in WRONG])
def test_a_mistake_is_told_with_the_path_of_its_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("task: embed", "task: dance").replace("max_waiting: 4", "max_waiting: -4")
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "[]", "models: []", "a: [", "models: 7", "\x00"])
def test_what_is_no_catalogue_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CatalogueError):
        read_catalogue(write(tmp_path, text))


def test_golden_cases_of_an_upstream_are_chats(tmp_path: Path) -> None:
    probed = GOOD.replace("model: big", "model: big, probe: {golden: golden.json}")
    (tmp_path / "golden.json").write_text(
        '{"cases": [{"messages": [{"role": "user", "content": "Hi"}], "contains": ["there"]}]}', "utf-8"
    )
    entry = read_catalogue(write(tmp_path, probed)).models[1]
    assert entry.openai is not None and entry.openai.probe is not None
    assert entry.openai.probe.timing().probe_period_s == 60.0
    tensor = '{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}'
    (tmp_path / "golden.json").write_text(f'{{"cases": [{{"inputs": [{tensor}], "outputs": [{tensor}]}}]}}', "utf-8")
    with pytest.raises(CatalogueError, match=r"models\[1\]\.openai\.probe\.golden: .*asked with messages"):
        read_catalogue(write(tmp_path, probed))


def test_what_a_model_of_tensorrt_llm_can_do_leaves_the_seed_out(tmp_path: Path) -> None:
    text = GOOD.replace("prompt: chatml}", "prompt: chatml, tensors: tensorrt_llm}, sampling: {max_tokens: 9}")
    assert "seed" not in read_catalogue(write(tmp_path, text)).models[2].model().capabilities


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="nowhere"):
        read_catalogue(tmp_path / "nowhere.yaml")


def test_the_local_catalogue_is_right() -> None:
    path = Path(__file__).resolve().parents[4] / "deploy/local/catalogue.yaml"
    assert {each.name for each in read_catalogue(path).models} >= {"minilm-l6", "extractive-reader"}


def test_servers_move_to_other_addresses_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    catalogue = read_catalogue(tmp_path / "c.yaml")
    assert catalogue.moved({"local": "127.0.0.1:9"}).servers["local"].address == "127.0.0.1:9"
    (tmp_path / "c.yaml").write_text(GOOD.replace('address: "127.0.0.1:8091"', 'addresses: ["a:1", "b:1"]'))
    assert read_catalogue(tmp_path / "c.yaml").moved({"local": "127.0.0.1:9"}).servers["local"].fixed() == {
        "127.0.0.1:9"
    }
    with pytest.raises(CatalogueError, match="elsewhere"):
        catalogue.moved({"elsewhere": "127.0.0.1:9"})


def test_what_a_model_is_planned_for_and_how_its_slots_are_learned(tmp_path: Path) -> None:
    text = GOOD.replace("max_concurrent: 3", "max_concurrent: 3, least_concurrent: 2")
    text = text.replace("timeout_s: 7", "objective: {kind: latency, quantile: 0.99, seconds: 2}")
    (tmp_path / "catalogue.yaml").write_text(text, "utf-8")
    encoder, chat, _ = (entry.model() for entry in read_catalogue(tmp_path / "catalogue.yaml").models)
    assert chat.queue == QueueLimits(3, 4, 2)
    assert chat.objective == Objective(Kind.LATENCY, 0.99, 2.0)
    assert encoder.objective == USUAL_OBJECTIVE
