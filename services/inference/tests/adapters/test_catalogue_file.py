"""The catalogue file: what it may say, and what is said of its mistakes."""

from pathlib import Path

import pytest
from inference.adapters.catalogue_file import CatalogueError, read_catalogue
from inference.core.catalogue import Provider, QueueLimits, Task
from inference.core.generation import Sampling
from inference.core.prompts import PromptFormat

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
    ("upstream: cloud", "upstream: clod", 'models[1].openai.upstream: no upstream "clod" is declared'),
    ("name: reader", "name: encoder", "models[2].name: models[0] has the name 'encoder' already"),
    (", triton: {server: local, model: enc}", "", "models[0]: exactly one of triton and openai is needed"),
    ("name: encoder", "name: 'rag:x'", "models[0].name: String should match pattern"),
    ("127.0.0.1:8091", "http://x", "servers.local.address: String should match pattern"),
    ("https://", "ftp://", "upstreams.cloud.base_url: String should match pattern"),
    ("CLOUD_KEY", "CLOUD_KEY, api_key_file: k", "upstreams.cloud: take api_key_env or api_key_file, not both"),
    (
        "name: chat\n    task: generate",
        "name: chat\n    task: embed",
        "models[1]: a model of an upstream can only generate",
    ),
    ("prompt: chatml", "prompt: llama", "models[2].triton.prompt: Input should be 'plain' or 'chatml'"),
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
    with pytest.raises(CatalogueError, match="elsewhere"):
        catalogue.moved({"elsewhere": "127.0.0.1:9"})
