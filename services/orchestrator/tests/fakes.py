"""One fake per port, and what tests are made of."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.adapters.pipeline_file import PIPELINES, load_pipeline
from orchestrator.core.answer import Answer, FinishReason, Provenance, ServedModel, TokenUsage
from orchestrator.core.asking import Answerer, Clocks
from orchestrator.core.document import Chunk, Embedded, KnownDocument, Parsed, Source, Stored
from orchestrator.core.ingesting import Ingester
from orchestrator.core.passage import Embedding, Encoder, Found, Passage, Query
from orchestrator.core.pipeline import Pipeline
from orchestrator.core.ports import Finished, Piece, Ranking
from orchestrator.core.prompt import PromptBuilder
from orchestrator.core.question import Message, Question, Sampling
from orchestrator.core.steps import preparing
from orchestrator.core.writing import Writer
from servicekit.errors import NotFound, PenstockError

ENCODER = Encoder("minilm-l6", "1", "sha256:" + "a" * 64, 2, "mean", 256)
RAG, TEMPLATE = load_pipeline(PIPELINES / "rag.yaml", "writer")
RERANKING, _ = load_pipeline(PIPELINES / "rag.yaml", "writer", reranker="ranker")
READER = "extractive-reader"


def passage(text: str, title: str = "Doc", index: int = 0, start: int = 0) -> Passage:
    """Return a passage of a document named after its title."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Passage(title.lower().replace(" ", "-"), title, index, text, start, start + len(text), f"sha256:{digest}")


SACKS = passage(
    "The Panthers defense gave up just 308 points. Kawann Short led the team in sacks with 11. "
    "He also forced three fumbles and recovered two.",
    "Super Bowl 50",
    start=100,
)
NORMANS = passage("The Normans gave their name to Normandy, a region in France. They were not Danes.", "Normans")


def words(text: str) -> int:
    """Count words for tokens."""
    return len(text.split())


@dataclass
class ManualClock:
    """Time that passes when a test says so, in seconds."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeEmbedder:
    """Gives each text the vector (its length, 1), or fails."""

    error: PenstockError | None = None
    asked: list[list[str]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    waiting: int = 0
    timeouts: list[float] = field(default_factory=list)

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Embedding:
        self.asked.append(list(texts))
        self.timeouts.append(timeout_s)
        if self.hold is not None:
            self.waiting += 1
            try:
                await self.hold.wait()
            finally:
                self.waiting -= 1
        if self.error is not None:
            raise self.error
        return Embedding(ENCODER, b"\x00\x00\x80?\x00\x00\x80?" * len(texts))


@dataclass
class FakeLibrary:
    """Holds passages to find and documents that were stored."""

    passages: Sequence[Passage] = (SACKS, NORMANS)
    error: PenstockError | None = None
    queries: list[Query] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    stored: dict[str, Embedded] = field(default_factory=dict)
    hold: asyncio.Event | None = None

    async def search(self, query: Query, timeout_s: float) -> Found:
        self.queries.append(query)
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        return Found(tuple(self.passages[: query.top_k]), 7)

    async def revision(self, knowledge_base: str) -> int | None:
        return len(self.stored) or None

    async def find(self, knowledge_base: str, document_id: str) -> KnownDocument | None:
        known = self.stored.get(document_id)
        return known and KnownDocument(known.title, known.content_hash, known.metadata, len(known.chunks))

    async def store(self, knowledge_base: str, document: Embedded) -> Stored:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        changed = self.stored.get(document.id) != document
        self.stored[document.id] = document
        return Stored(len(self.stored), changed)


@dataclass
class FakeGenerator:
    """Writes for each model what the script says: pieces of text, or an error at that place."""

    script: Mapping[str, Sequence[str | PenstockError]]
    asked: list[tuple[str, tuple[Message, ...], Sampling]] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    before: Callable[[str], None] = lambda model: None
    closed: bool = False

    async def generate(
        self, model: str, messages: Sequence[Message], sampling: Sampling, timeout_s: float, *, streaming: bool
    ) -> AsyncGenerator[Piece, None]:
        self.asked.append((model, tuple(messages), sampling))
        self.timeouts.append(timeout_s)
        self.before(model)
        if model not in self.script:
            raise NotFound(f"no model {model}", reason="model_not_found")
        try:
            yield Piece(served=ServedModel(model, "1", "sha256:b", "triton"))
            for piece in self.script[model]:
                if isinstance(piece, PenstockError):
                    raise piece
                await asyncio.sleep(0)
                yield Piece(piece)
            yield Piece(finished=Finished(FinishReason.STOP, TokenUsage(100, 10, reported=True)))
        finally:
            self.closed = True


@dataclass
class FakeRanker:
    """Scores a passage by where it stands in `best`, what is not in there last; or fails."""

    best: Sequence[str] = ()
    error: PenstockError | None = None
    asked: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)

    async def rank(self, model: str, question: str, passages: Sequence[str], timeout_s: float) -> Ranking:
        self.asked.append((model, question, tuple(passages)))
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        scores = tuple(-float(self.best.index(text)) if text in self.best else -100.0 for text in passages)
        return Ranking(scores, ServedModel(model, "3", "sha256:c", "triton"))


@dataclass
class FakeStore:
    """Keeps provenance in memory, or fails."""

    encode: Callable[[Provenance], bytes] = lambda provenance: provenance.answer.id.encode()
    error: PenstockError | None = None
    kept: list[Provenance] = field(default_factory=list)

    async def keep(self, provenance: Provenance) -> None:
        if self.error is not None:
            raise self.error
        self.kept.append(provenance)

    async def find(self, tenant: str, answer_id: str) -> bytes | None:
        found = [each for each in self.kept if (each.tenant, each.answer.id) == (tenant, answer_id)]
        return self.encode(found[0]) if found else None


@dataclass
class FakeParser:
    """Takes the bytes for text; fails for the ids in `errors`."""

    errors: Mapping[str, PenstockError] = field(default_factory=dict)
    parsed: list[str] = field(default_factory=list)

    async def parse(self, source: Source) -> Parsed:
        self.parsed.append(source.id)
        if source.id in self.errors:
            raise self.errors[source.id]
        return Parsed(source.content.decode(), "")


class FakeChunker:
    """Makes one chunk of each line."""

    async def chunk(self, text: str, media_type: str) -> tuple[Chunk, ...]:
        chunks, start = [], 0
        for line in text.splitlines(keepends=True):
            chunks.append(Chunk(len(chunks), line.rstrip("\n"), start, start + len(line.rstrip("\n"))))
            start += len(line)
        return tuple(chunks)


@dataclass
class Desk:
    """An Answerer on fakes."""

    generator: FakeGenerator
    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    library: FakeLibrary = field(default_factory=FakeLibrary)
    store: FakeStore = field(default_factory=FakeStore)
    clock: ManualClock = field(default_factory=ManualClock)
    token_budget: int = 3_000
    ranker: FakeRanker = field(default_factory=FakeRanker)
    pipeline: Pipeline = RAG

    @property
    def answerer(self) -> Answerer:
        builder = PromptBuilder(TEMPLATE, self.token_budget, words)
        steps = preparing(self.embedder, self.library, builder, self.ranker, self.pipeline.rerank)
        clocks = Clocks(self.clock, lambda: 1_700_000_000.0, lambda bits: (1 << bits) - 1)
        writer = Writer(self.pipeline, self.generator)
        return Answerer(self.pipeline, TEMPLATE, steps, writer, self.store, 30.0, clocks)

    async def ask(self, text: str = "Who led the team in sacks?", *, streaming: bool = False, **more: object):
        """Return the streamed pieces and the answer."""
        pieces: list[str] = []
        answer: Answer | None = None
        question = Question("acme", "kb", text, **more)  # type: ignore[arg-type]
        async for event in self.answerer.answer(question, streaming=streaming):
            if isinstance(event, Answer):
                answer = event
            else:
                pieces.append(event)
        assert answer is not None
        return pieces, answer


def ingester(parser: FakeParser, embedder: FakeEmbedder, library: FakeLibrary, concurrency: int = 4) -> Ingester:
    """Return an Ingester on fakes."""
    return Ingester(parser, FakeChunker(), embedder, library, concurrency, 60.0)


def source(document_id: str, content: bytes = b"some text", media_type: str = "text/plain", title: str = "") -> Source:
    """Return a document."""
    return Source(document_id, title, media_type, content, {})
