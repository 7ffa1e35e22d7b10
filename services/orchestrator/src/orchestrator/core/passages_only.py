"""The last rung: no model, the passages themselves."""

from typing import Final

from orchestrator.core.answer import Citation, Grounded
from orchestrator.core.grounding import DECLINE, MARKER, cite, likest_span
from orchestrator.core.sentences import sentence_spans
from orchestrator.core.steps import State
from orchestrator.core.support import rarity, terms_of

LEAD_IN: Final = "No model could answer just now. These passages fit the question best:"
QUOTES: Final = 3


def passages_only(state: State) -> Grounded:
    """Return the likest sentence of each of the first passages, quoted and cited; a decline when there are none."""
    passages = state.prompt.passages
    if not passages:
        return Grounded(DECLINE, (), None, declined=True, removed_citations=0)
    weigh = rarity([terms_of(passage.text) for passage in passages])
    citations: list[Citation] = []
    for number, passage in enumerate(passages[:QUOTES], start=1):
        spans = sentence_spans(passage.text)
        start, end = likest_span(passage.text, spans, state.question.text, weigh)
        citations.append(cite(number, passage, start, end))
    lines = [f"\u201c{_shown(citation.quote)}\u201d [{citation.number}]" for citation in citations]
    return Grounded("\n".join([LEAD_IN, *lines]), tuple(citations), None, declined=False, removed_citations=0)


def _shown(quote: str) -> str:
    """Return a quote on one line, without marks that would look like citations."""
    return " ".join(MARKER.sub("", quote).split())
