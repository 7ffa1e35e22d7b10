"""Measures what ranking again is worth on a SQuAD-format file: the source paragraph's place before and after.

    python models/passage-ranker/measure.py --questions xquad.en.json --repository .penstock/models

The first ranking is the reader's exact hybrid search; the built graphs rank its candidates again. It takes minutes.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
READER = HERE.parent / "extractive-reader"
sys.path[:0] = [str(folder) for folder in (READER, READER / "triton", HERE.parent / "passage-tokens" / "triton")]
sys.path.insert(0, str(HERE.parent / "pair-scores" / "triton"))

from encoder import SentenceEncoder  # noqa: E402  (the paths above come first)
from pieces import Pieces  # noqa: E402
from scorer import Scorer  # noqa: E402
from xquad import HybridSearch, Question, read  # noqa: E402

ROWS_PER_RUN, KEPT_BYTES = 8, 64 << 20  # as in config.pbtxt
DEPTH = 10
Numbers = NDArray[np.float64]


def session(folder: Path) -> ort.InferenceSession:
    """Return a built model's graph, open on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(next(folder.glob("*/model.onnx"))), options, providers=["CPUExecutionProvider"])


class BuiltRanker:
    """The steps of passage-ranker, one after another and without a server."""

    def __init__(self, repository: Path) -> None:
        tokenizer = Tokenizer.from_file(str(next((repository / "passage-tokens").glob("*/tokenizer.json"))))
        self._pieces = Pieces(tokenizer, 256, 64)
        graph, outputs = session(repository / "pair-scores"), ["directions", "counted"]
        self._scorer = Scorer(
            lambda ids, mask: graph.run(outputs, {"input_ids": ids, "attention_mask": mask}), ROWS_PER_RUN, KEPT_BYTES
        )

    def order(self, question: str, passages: Sequence[str]) -> list[int]:
        """Return the passages' places, best first."""
        ids, mask = self._pieces.rows(question.encode(), [text.encode() for text in passages])
        places: list[int] = np.argsort(-self._scorer.scores(ids, mask), kind="stable").tolist()
        return places


def ranks(rankings: Sequence[Sequence[int]], questions: Sequence[Question]) -> Numbers:
    """Return the place of each question's paragraph in its ranking, infinity where it is not there."""
    pairs = zip(rankings, questions, strict=True)
    found = [ranking.index(one.paragraph) if one.paragraph in ranking else np.inf for ranking, one in pairs]
    return np.array(found, np.float64)


def line(name: str, places: Numbers) -> str:
    """Return recall and nDCG of one ranking."""
    recall = [f"recall@{k} {(places < k).mean():.4f}" for k in (1, 3, 5)]
    gain = np.where(places < DEPTH, 1 / np.log2(2 + places), 0.0)
    return f"{name:32} {len(places):5} questions  {'  '.join(recall)}  nDCG@{DEPTH} {gain.mean():.4f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="a SQuAD 1.1 file")
    parser.add_argument("--repository", type=Path, required=True, help="a repository built for cpu")
    parser.add_argument("--candidates", type=int, default=10)
    arguments = parser.parse_args()
    paragraphs, questions = read(arguments.questions)
    graph = session(arguments.repository / "minilm-l6")
    tokenizer = Tokenizer.from_file(str(arguments.repository / "minilm-l6/tokenizer.json"))
    encoder = SentenceEncoder(
        tokenizer, lambda ids, mask: graph.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
    )
    texts = [paragraph.text for paragraph in paragraphs]
    search = HybridSearch(texts, encoder.encode(texts))
    asked = encoder.encode([question.text for question in questions])
    found = [
        search.search(one.text, vector, arguments.candidates) for one, vector in zip(questions, asked, strict=True)
    ]
    ranker, start = BuiltRanker(arguments.repository), time.process_time()
    again = [
        [places[at] for at in ranker.order(one.text, [texts[place] for place in places])]
        for one, places in zip(questions, found, strict=True)
    ]
    spent_ms = (time.process_time() - start) / len(questions) * 1e3
    odd = np.array([question.article % 2 == 1 for question in questions])
    before, after = ranks(found, questions), ranks(again, questions)
    for name, rows in (("all", odd | True), ("odd-numbered articles", odd), ("even-numbered articles", ~odd)):
        print(line(f"search, {name}", before[rows]))  # noqa: T201 - a command line
        print(line(f"ranked again, {name}", after[rows]))  # noqa: T201
        put_right, put_wrong = (before >= 1) & (after < 1) & rows, (before < 1) & (after >= 1) & rows
        print(f"{'':32} first place: {put_right.sum()} put right, {put_wrong.sum()} put wrong")  # noqa: T201
    print(f"{spent_ms:.0f} ms of CPU for each question and its {arguments.candidates} candidates")  # noqa: T201


if __name__ == "__main__":
    main()
