"""Searches a knowledge base for the passages nearest to a question."""

from dataclasses import dataclass

from servicekit import deadline
from servicekit.errors import InvalidInput

from orchestrator.core.passage import Found, Query
from orchestrator.core.ports import Embedder, Searcher
from orchestrator.core.question import (
    DEFAULT_HITS,
    MAX_HITS,
    Condition,
    SearchMode,
    check_knowledge_base,
    check_text,
)

EMBED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Search:
    """A search as it is asked for; zero `top_k` means DEFAULT_HITS."""

    knowledge_base: str
    text: str
    top_k: int
    filter: tuple[Condition, ...]
    mode: SearchMode
    min_revision: int

    def check(self) -> None:
        """Raise InvalidInput, naming the field, for what cannot be searched."""
        check_knowledge_base(self.knowledge_base, "knowledge_base")
        check_text(self.text, "text")
        if self.top_k > MAX_HITS:
            raise InvalidInput(f"top_k is {self.top_k}; at most {MAX_HITS}", field="top_k")


@dataclass(frozen=True, slots=True)
class Finder:
    """Embeds a question and searches; `default_deadline_s` holds for callers without a deadline."""

    embedder: Embedder
    searcher: Searcher
    default_deadline_s: float

    async def find(self, search: Search) -> Found:
        """Return the passages. Raises InvalidInput, NotFound, Conflict, Unavailable, TimedOut."""
        search.check()
        remaining_s = deadline.remaining_s()
        left_s = self.default_deadline_s if remaining_s is None else remaining_s
        embedding = None
        if search.mode is not SearchMode.LEXICAL:
            embedding = await self.embedder.embed([search.text], left_s * EMBED_SHARE)
        query = Query(
            search.knowledge_base,
            search.text,
            embedding,
            search.top_k or DEFAULT_HITS,
            search.filter,
            search.mode,
            search.min_revision,
        )
        return await self.searcher.search(query, left_s)
