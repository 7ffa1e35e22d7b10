"""Builds a Triton model repository from the model cards, and leaves alone what is already up to date."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_repository.activations import read_spans
from model_repository.card import Card, CardError, Graph, Target, Variant, read_cards
from model_repository.encoder_graph import Dialect, FusedFloat, FusedInt8, PortableFloat, build_encoder
from model_repository.golden import read_cases
from model_repository.ranker_graph import build_ranker
from model_repository.weights import encoder_shape, find_folder, read_config, read_tokenizer, read_weights

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPH = "model.onnx"
ACTIVATIONS = "activations.json"
GOLDEN = "golden.json"
OPENER = Path(__file__).with_name("onnx_session.py")
"""Goes beside the graph of a model whose program opens it."""

CONFIG = "config.pbtxt"
IGNORED = shutil.ignore_patterns("__pycache__", CONFIG)


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model in the repository; `fresh` tells that this build made it; `size` is in bytes."""

    name: str
    digest: str
    size: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One model to build: its card, its variant if it is an encoder, and the folder of its Triton files."""

    card: Card
    variant: Variant | None
    triton: Path
    target: Target

    @property
    def name(self) -> str:
        """The model's name in Triton."""
        return self.variant.name if self.variant else self.card.name

    @property
    def activations(self) -> Path:
        """Where the ranges of an int8 graph lie."""
        return self.triton.parent.parent / (self.card.needs.activations or self.card.name) / ACTIVATIONS


def build_repository(models: Path, target: Target, output: Path) -> Iterator[BuiltModel]:
    """Build every model that has files for `target` into `output`, yielding each as it is done.

    A model's folder appears complete or not at all. Raises CardError.
    """
    output.mkdir(parents=True, exist_ok=True)
    for plan in _plans(models, target):
        inputs = _inputs_digest(plan, output)
        known = _read_manifest(output / plan.name)
        fresh = known.get("inputs") != inputs
        if fresh:
            known = _build_aside(plan, output, inputs)
        yield BuiltModel(plan.name, known["digest"], _size(output / plan.name), fresh)


def _plans(models: Path, target: Target) -> Iterator[Plan]:
    for card in read_cards(models):
        own = models / card.name / f"triton-{target}"
        triton = own if own.is_dir() else models / card.name / "triton"
        variants = [variant for variant in card.variants if target in variant.graph]
        for variant in variants if card.encoder else [None]:
            yield Plan(card, variant, triton, target)


def _build_aside(plan: Plan, output: Path, inputs: str) -> dict[str, Any]:
    """Build beside the repository, where Triton does not look, then move the finished folder in."""
    with tempfile.TemporaryDirectory(prefix=f".{plan.name}-", dir=output.parent) as aside:
        folder = Path(aside) / "new"
        folder.mkdir()
        manifest = _build(plan, folder, output) | {"inputs": inputs}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        target = output / plan.name
        if target.exists():
            target.rename(Path(aside) / "old")
        folder.rename(target)
    return manifest


def _build(plan: Plan, folder: Path, output: Path) -> dict[str, Any]:
    version = folder / str(plan.card.version)
    shutil.copytree(plan.triton, version, ignore=IGNORED)
    identity: dict[str, Any] = {}
    if plan.card.encoder and plan.variant:
        dialect = _dialect(plan.variant.graph[plan.target], plan.activations)
        identity = _write_graph(plan.card, dialect, folder, version)
        if (version / "model.py").exists():
            shutil.copyfile(OPENER, version / OPENER.name)
        identity["precision"] = plan.variant.graph[plan.target]
        digest = _digest_files([folder / TOKENIZER, version / GRAPH], folder)
    elif plan.card.needs.models:
        digest = _digest_ensemble(plan, output)
    else:
        if plan.card.needs.tokenizer:
            shutil.copyfile(output / plan.card.needs.tokenizer / TOKENIZER, version / TOKENIZER)
        digest = _digest_files((path for path in version.rglob("*") if path.is_file()), folder)
    identity = {"version": str(plan.card.version), "digest": digest, **identity}
    parameters = dict(identity)
    cases = read_cases(plan.triton.parent / GOLDEN, plan.variant.tolerance if plan.variant else None)
    if cases:
        (folder / GOLDEN).write_text(cases + "\n", "utf-8")
        parameters["golden"] = cases
    _write_config(plan.triton / CONFIG, folder / CONFIG, parameters)
    return {"name": plan.name, "target": plan.target, "served": plan.variant is None or plan.variant.served, **identity}


def _write_graph(card: Card, dialect: Dialect, folder: Path, version: Path) -> dict[str, Any]:
    """Write the graph and the tokenizer; return what identifies the encoder, or the ranker, besides its digest."""
    source = card.encoder
    assert source is not None, "who reads cards refuses a graph without weights"
    published = find_folder(source)
    config = read_config(published)
    if config["hidden_size"] != source.dimensions:
        raise CardError(f"the card says {source.dimensions} dimensions, the weights {config['hidden_size']}")
    ranks = card.kind == "ranker"
    model = (build_ranker if ranks else build_encoder)(read_weights(published), encoder_shape(config), dialect)
    (version / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    (folder / TOKENIZER).write_text(read_tokenizer(published), "utf-8")
    vectors = {} if ranks else {"dimensions": source.dimensions, "pooling": source.pooling}
    return {
        **vectors,
        "max_tokens": source.max_tokens,
        "vocabulary": config["vocab_size"],
        "positions": config["max_position_embeddings"],
    }


def _dialect(graph: Graph, activations: Path) -> Dialect:
    if graph == "int8":
        if not activations.exists():
            raise CardError(f"{activations} is missing: `calibrate` writes it")
        return FusedInt8(read_spans(activations))
    return FusedFloat() if graph == "fp32" else PortableFloat()


def _write_config(template: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Copy config.pbtxt and append parameters, which ModelConfig hands to any client."""
    lines = (
        f'parameters {{ key: "{key}" value {{ string_value: {_quoted(value)} }} }}\n'
        for key, value in parameters.items()
    )
    target.write_text(template.read_text("utf-8") + "".join(lines), "utf-8")


def _quoted(value: Any) -> str:
    """Return a string as protobuf's text format has it."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _inputs_digest(plan: Plan, output: Path) -> str:
    """Digest of all that the model is made from: program, card, Triton files, published files, borrowed tokenizer."""
    program = Path(__file__).parent.glob("*.py")
    files = [*program, plan.triton.parent / "model.yaml", *_sources(plan.triton), *plan.triton.parent.glob(GOLDEN)]
    if plan.card.encoder:
        files += _sources(find_folder(plan.card.encoder))
        files += [plan.activations] if plan.activations.exists() else []
    if plan.card.needs.tokenizer:
        borrowed = output / plan.card.needs.tokenizer / TOKENIZER
        if not borrowed.exists():
            raise CardError(f"{plan.name}: needs.tokenizer: no model {plan.card.needs.tokenizer} has one")
        files.append(borrowed)
    files += [_manifest(plan, output, member) for member in plan.card.needs.models]
    return hashlib.sha256(f"{plan.name} {plan.target} {_digest_files(files, Path('/'))}".encode()).hexdigest()


def _digest_ensemble(plan: Plan, output: Path) -> str:
    """Digest of what an ensemble does: its own configuration, and the digests of the models that it runs."""
    members = [_read_manifest(output / member)["digest"] for member in plan.card.needs.models]
    own = _digest_files([plan.triton / CONFIG], plan.triton)
    return hashlib.sha256("\n".join([own, *members]).encode()).hexdigest()


def _manifest(plan: Plan, output: Path, member: str) -> Path:
    path = output / member / MANIFEST
    if not path.exists():
        raise CardError(f"{plan.name}: needs.models: there is no model {member}")
    return path


def _sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]


def _digest_files(files: Iterable[Path], root: Path) -> str:
    """sha256 over the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as stream:
            digest.update(f"{path.relative_to(root)} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return manifest


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
