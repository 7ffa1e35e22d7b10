"""Measures answers on a SQuAD-format file through the gateway: make eval DATA=FILE.

Every paragraph becomes a document, every question is asked twice: as it is, and with its own paragraph filtered out,
when it should be declined. The reader's thresholds were fitted on articles of even position; `held out` is the rest.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
from resources import cpu_s, family
from stack_process import ROOT, RunningStack, running_stack

CALLERS = 4
PORT_OFFSET = 20_000
KNOWLEDGE_BASE = "evaluation"
BARS = {
    "recall@5": 0.985,
    "recall@1": 0.91,
    "containment": 0.86,
    "citations verified": 1.0,
    "declined without its paragraph": 0.80,
}
MOST_FALSE_DECLINES = 0.10


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph as a document."""

    document_id: str
    text: str

    def document(self) -> dict[str, Any]:
        """Return it as the gateway takes it, with its id as metadata to filter by."""
        metadata = {"paragraph": self.document_id}
        return {"id": self.document_id, "media_type": "text/plain", "text": self.text, "metadata": metadata}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its accepted answers, and the paragraph they stand in."""

    text: str
    answers: tuple[str, ...]
    paragraph: Paragraph
    held_out: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for one question."""

    question: Question
    found: tuple[str, ...]
    contained: bool
    declined: bool
    citations: Sequence[Mapping[str, Any]]
    declined_without: bool
    seconds: float


def read(file: Path) -> tuple[list[Paragraph], list[Question]]:
    """Return paragraphs and questions of a SQuAD-format file."""
    paragraphs, questions = [], []
    for position, article in enumerate(json.loads(file.read_text())["data"]):
        for number, entry in enumerate(article["paragraphs"]):
            paragraph = Paragraph(f"article-{position:03}-paragraph-{number:02}", entry["context"])
            paragraphs.append(paragraph)
            for qa in entry["qas"]:
                answers = tuple(answer["text"] for answer in qa["answers"])
                questions.append(Question(qa["question"], answers, paragraph, position % 2 == 1))
    return paragraphs, questions


def plain(text: str) -> str:
    """Return a text without citation marks, case and odd spaces."""
    return " ".join(re.sub(r"\s*\[\d+\]", "", text).lower().split())


class Gateway:
    """The calls that are needed here."""

    def __init__(self, session: aiohttp.ClientSession, stack: RunningStack) -> None:
        self._session = session
        self._url = stack.url
        self._headers = {"Authorization": f"Bearer {stack.api_key}"}

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON, return JSON; raise RuntimeError for a refusal."""
        async with self._session.post(self._url + path, json=body, headers=self._headers) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {answer}")
            return answer

    async def ingest(self, paragraphs: Sequence[Paragraph]) -> None:
        """Take all paragraphs in."""
        for start in range(0, len(paragraphs), 60):
            documents = [
                {
                    "id": p.document_id,
                    "media_type": "text/plain",
                    "text": p.text,
                    "metadata": {"paragraph": p.document_id},
                }
                for p in paragraphs[start : start + 60]
            ]
            answer = await self.post(f"/v1/knowledge-bases/{KNOWLEDGE_BASE}/documents", {"documents": documents})
            rejected = [result for result in answer["results"] if result["status"] != "stored"]
            if rejected:
                raise RuntimeError(f"rejected: {rejected[:3]}")

    async def outcome(self, question: Question) -> Outcome:
        """Search, ask, and ask again without the question's own paragraph."""
        hits = await self.post(f"/v1/knowledge-bases/{KNOWLEDGE_BASE}/search", {"query": question.text, "top_k": 20})
        body = {"knowledge_base": KNOWLEDGE_BASE, "question": question.text}
        start = time.perf_counter()
        answer = await self.post("/v1/ask", body)
        seconds = time.perf_counter() - start
        without = await self.post("/v1/ask", body | {"filter": {"paragraph": {"ne": question.paragraph.document_id}}})
        text = plain(answer["answer"])
        return Outcome(
            question=question,
            found=tuple(dict.fromkeys(hit["document_id"] for hit in hits["data"])),
            contained=not answer["declined"] and any(plain(gold) in text for gold in question.answers),
            declined=answer["declined"],
            citations=answer["citations"],
            declined_without=without["declined"],
            seconds=seconds,
        )


def verified(citation: Mapping[str, Any], texts: Mapping[str, str]) -> bool:
    """Return whether a citation's quote stands in its document at the place it names."""
    source = texts[citation["document_id"]]
    return bool(citation["quote"]) and source[citation["start"] : citation["end"]] == citation["quote"]


def share(flags: Iterable[bool]) -> float:
    """Return the share of true ones; 0 of nothing is 0."""
    values = list(flags)
    return sum(values) / len(values) if values else 0.0


def figures(outcomes: Sequence[Outcome], texts: Mapping[str, str]) -> dict[str, float]:
    """Return every measure over some questions."""
    places = [[*o.found[:5]] for o in outcomes]
    own = [o.question.paragraph.document_id for o in outcomes]
    return {
        "questions": len(outcomes),
        "recall@5": share(name in found for name, found in zip(own, places, strict=True)),
        "recall@1": share(found[:1] == [name] for name, found in zip(own, places, strict=True)),
        "containment": share(o.contained for o in outcomes),
        "false declines": share(o.declined for o in outcomes),
        "declined without its paragraph": share(o.declined_without for o in outcomes),
        "citations verified": share(verified(c, texts) for o in outcomes for c in o.citations),
        "citations per answer": sum(len(o.citations) for o in outcomes) / max(1, sum(not o.declined for o in outcomes)),
        "at most two citations": share(len(o.citations) <= 2 for o in outcomes),
    }


async def measure(stack: RunningStack, data: Path) -> dict[str, Any]:
    """Ingest, ask everything, and return the figures of all questions and of the held-out half."""
    paragraphs, questions = read(data)
    pids = family(int(row["pid"]) for row in stack.processes())
    async with aiohttp.ClientSession() as session:
        gateway = Gateway(session, stack)
        start = time.perf_counter()
        await gateway.ingest(paragraphs)
        ingest_s = time.perf_counter() - start
        cpu_before = cpu_s(pids)
        gate = asyncio.Semaphore(CALLERS)

        async def one(question: Question) -> Outcome:
            async with gate:
                return await gateway.outcome(question)

        outcomes = await asyncio.gather(*(one(question) for question in questions))
    cpu_ms = (cpu_s(pids) - cpu_before) * 1e3 / (2 * len(questions))
    texts = {paragraph.document_id: paragraph.text for paragraph in paragraphs}
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "data": data.name,
        "all": figures(outcomes, texts),
        "held_out": figures([outcome for outcome in outcomes if outcome.question.held_out], texts),
        "ingest_documents_per_s": len(paragraphs) / ingest_s,
        "ask_p50_ms": median(seconds) * 1e3,
        "ask_p99_ms": quantiles(seconds, n=100)[98] * 1e3,
        "cpu_ms_per_question": cpu_ms,
        "callers": CALLERS,
    }


def verdict(result: Mapping[str, Any]) -> bool:
    """Print the figures against their bars; return whether every bar holds."""
    fine = True
    for name, bar in (*BARS.items(), ("false declines", MOST_FALSE_DECLINES)):
        everything, held_out = result["all"][name], result["held_out"][name]
        holds = everything <= bar if name == "false declines" else everything >= bar
        fine &= holds
        print(
            f"{name:32} {everything:6.3f}   held out {held_out:6.3f}   bar {bar:5.3f}   {'PASS' if holds else 'FAIL'}"
        )
    for name in ("ask_p50_ms", "ask_p99_ms", "cpu_ms_per_question", "ingest_documents_per_s"):
        print(f"{name:32} {result[name]:8.1f}")
    return fine


def main() -> int:
    """Run the evaluation on a stack of its own; write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a SQuAD-format file")
    data = parser.parse_args().data.resolve()
    if not data.is_file():
        parser.error(f"{data} is not a file; usage: make eval DATA=path/to/file.json")
    with (
        tempfile.TemporaryDirectory(prefix="penstock-eval-") as folder,
        running_stack(Path(folder), PORT_OFFSET, {"PENSTOCK_TRACE_RATIO": "0.01"}) as stack,
    ):
        result = asyncio.run(measure(stack, data))
    output = ROOT / ".penstock" / "bench" / "evaluation.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2))
    return 0 if verdict(result) else 1


if __name__ == "__main__":
    sys.exit(main())
