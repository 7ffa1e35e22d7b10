"""The ranker: texts to word pieces to scores, and how the three models of it are built."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest
from model_repository.card import CardError
from model_repository.ranker_graph import SPECIAL, word_weights
from model_repository.repository import BuiltModel, build_repository
from tokenizers import Tokenizer

MODELS = Path(__file__).parents[1]
NAMES = ("minilm-l6", "passage-tokens", "pair-scores", "passage-ranker")


def module(model: str, name: str) -> ModuleType:
    """Return a module of a model's own, as Triton finds it."""
    spec = importlib.util.spec_from_file_location(name, MODELS / model / "triton" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


pieces = module("passage-tokens", "pieces")
scorer = module("pair-scores", "scorer")


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of a target with the ranker and what it needs."""
    models = tmp_path_factory.mktemp("cards")
    for name in NAMES:
        (models / name).symlink_to(MODELS / name)
    output = tmp_path_factory.mktemp("state") / "repository"
    list(build_repository(models, request.param, output))
    return output


def cutter(built: Path) -> "pieces.Pieces":
    return pieces.Pieces(Tokenizer.from_file(str(built / "passage-tokens/1/tokenizer.json")), 256, 64)


def test_the_built_graph_passes_the_golden_cases(built: Path) -> None:
    session = ort.InferenceSession(str(built / "pair-scores/1/model.onnx"), providers=["CPUExecutionProvider"])
    cases = json.loads((built / "passage-ranker/golden.json").read_text("utf-8"))["cases"]
    for case in cases:
        query, passages = (tensor["data"] for tensor in case["inputs"])
        ids, mask = cutter(built).rows(query[0].encode(), [text.encode() for text in passages])
        (scores,) = session.run(["scores"], {"input_ids": ids, "attention_mask": mask})
        expected = case["outputs"][0]
        assert np.abs(scores - expected["data"]).max() <= 0.75 * expected["atol"]


def test_a_score_is_the_weighted_mean_of_the_likest_tokens(built: Path) -> None:
    session = ort.InferenceSession(str(built / "pair-scores/1/model.onnx"), providers=["CPUExecutionProvider"])
    ids, mask = cutter(built).rows(b"Who built the dam?", [b"Engineers built it.", b"A dam, a lake and a village", b""])
    scores, directions = session.run(["scores", "directions"], {"input_ids": ids, "attention_mask": mask})
    weights = word_weights(30_522)
    words = [~np.isin(row, SPECIAL) for row in ids]
    query = directions[0][words[0]]
    for row in (1, 2):
        likest = (query @ directions[row][words[row]].T).max(axis=1)
        assert scores[row - 1] == pytest.approx(np.average(likest, weights=weights[ids[0][words[0]]]), abs=1e-4)
    assert scores[2] == -2.0


def test_rare_words_count_more_and_special_tokens_nothing() -> None:
    weights = word_weights(30_522)
    assert (weights[list(SPECIAL)] == 0).all()
    assert 0 < weights[1996] < weights[3000] < weights[30_000], "1996 is 'the', the commonest word"


def test_the_ensemble_is_known_by_its_members(add_card: Callable[..., Path], tmp_path: Path) -> None:
    add_card("part")
    add_card("whole", kind="ensemble", needs={"models": ["part"]})

    def build() -> dict[str, BuiltModel]:
        return {each.name: each for each in build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository")}

    before = build()
    assert not build()["whole"].fresh
    (tmp_path / "models/part/triton/model.py").write_text("# another model\n", "utf-8")
    after = build()
    assert after["whole"].fresh
    assert after["whole"].digest != before["whole"].digest


def test_an_ensemble_without_its_members_is_refused(add_card: Callable[..., Path], tmp_path: Path) -> None:
    add_card("both", kind="ensemble", needs={"models": ["absent"]})
    with pytest.raises(CardError, match="there is no model absent"):
        list(build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository"))


@pytest.mark.parametrize(("kind", "needs"), [("ensemble", {}), ("python", {"models": ["other"]})])
def test_an_ensemble_and_nothing_else_needs_models(
    add_card: Callable[..., Path], tmp_path: Path, kind: str, needs: dict[str, list[str]]
) -> None:
    add_card("both", kind=kind, needs=needs)
    with pytest.raises(CardError, match=r"needs\.models"):
        list(build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository"))


@pytest.mark.parametrize(
    ("query", "passages", "told"),
    [
        (b"q", [], "passages has 0 elements"),
        (b"q", [b"a"] * 65, "passages has 65 elements"),
        (b"\xff", [b"a"], "not UTF-8"),
        (b"q", [b"a", b"\xc3"], "not UTF-8"),
    ],
)
def test_texts_that_cannot_be_ranked_are_refused(built: Path, query: bytes, passages: list[bytes], told: str) -> None:
    with pytest.raises(pieces.BadTexts, match=told):
        cutter(built).rows(query, passages)


def test_long_texts_are_cut(built: Path) -> None:
    ids, mask = cutter(built).rows(b"q", [b"water " * 100_000, b"a dam"])
    assert ids.shape == mask.shape == (3, 256)
    assert mask.sum(axis=1).tolist() == [3, 256, 4]


def built_scorer(built: Path, most_bytes: int = 1 << 20) -> "tuple[scorer.Scorer, list[int]]":
    """Return a scorer with the built graph, and the number of rows of each run it makes."""
    session = ort.InferenceSession(str(built / "pair-scores/1/model.onnx"), providers=["CPUExecutionProvider"])
    runs: list[int] = []

    def encode(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        runs.append(len(ids))
        directions, counted = session.run(["directions", "counted"], {"input_ids": ids, "attention_mask": mask})
        return directions, counted

    return scorer.Scorer(encode, 2, most_bytes), runs


PASSAGES = [b"Engineers built it.", b"A dam, a lake and a village", b"", b"Bread.", b"A dam, a lake and a village"]


def test_what_is_kept_in_eight_bits_scores_as_the_graph_does(built: Path) -> None:
    ids, mask = cutter(built).rows(b"Who built the dam?", PASSAGES)
    session = ort.InferenceSession(str(built / "pair-scores/1/model.onnx"), providers=["CPUExecutionProvider"])
    (exact,) = session.run(["scores"], {"input_ids": ids, "attention_mask": mask})
    told, runs = built_scorer(built)
    first = told.scores(ids, mask)
    assert np.abs(first - exact).max() < 0.01
    assert first[2] == scorer.NO_WORD
    assert first[1] == first[4]
    assert sum(runs) == 5, "a text that comes twice is encoded once"
    assert (told.scores(ids, mask) == first).all()
    assert sum(runs) == 5, "what is known is not encoded again"


def test_a_query_without_a_word_prefers_nothing(built: Path) -> None:
    told, _ = built_scorer(built)
    assert told.scores(*cutter(built).rows(b"", PASSAGES)).tolist() == [0.0] * 5


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(built: Path) -> None:
    told, runs = built_scorer(built, most_bytes=12_000)
    ids, mask = cutter(built).rows(b"dam", [b"a lake and a village and a dam", b"bread and salt and water"])
    before = told.scores(ids, mask)
    for number in range(20):
        told.scores(*cutter(built).rows(b"dam", [f"text number {number} about a dam".encode()]))
        assert told._bytes <= 12_000
    assert (told.scores(ids, mask) == before).all()
    assert runs[-1] == 2, "both had been dropped"
    tiny, _ = built_scorer(built, most_bytes=1)
    assert (tiny.scores(ids, mask) == before).all(), "without room for any text all is encoded again"


def test_rows_of_similar_length_are_read_together() -> None:
    lengths = np.array([4, 30, 3, 9, 9, 1, 17])
    assert list(scorer.plan_runs(range(7), lengths, 3)) == [[5, 2, 0], [3, 4, 6], [1]]
    assert list(scorer.plan_runs([], lengths, 3)) == []


@pytest.mark.parametrize(
    ("ids", "mask", "told"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "has shape"),
        (np.ones((1, 3)), np.ones((1, 3)), "at least one passage"),
        (np.ones((2, 0)), np.ones((2, 0)), "0 tokens"),
        (np.ones((2, 513)), np.ones((2, 513)), "513 tokens"),
        (np.full((2, 3), -1), np.ones((2, 3)), "outside the vocabulary"),
        (np.full((2, 3), 1000), np.ones((2, 3)), "outside the vocabulary"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(ids: np.ndarray, mask: np.ndarray, told: str) -> None:
    with pytest.raises(scorer.BadPairs, match=told):
        scorer.check(ids.astype(np.int64), mask.astype(np.int64), 1000, 512)
