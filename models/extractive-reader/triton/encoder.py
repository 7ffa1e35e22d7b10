"""Turns texts into unit vectors through a sentence encoder, and remembers the vectors of sentences that return."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Tokens = NDArray[np.int64]
Vectors = NDArray[np.float32]
Run = Callable[[Tokens, Tokens], Vectors]  # (input_ids, attention_mask) [n, length] -> unit vectors [n, dimensions]

MAX_TOKENS = 256
MAX_BATCH = 32


class SentenceEncoder:
    """Encodes texts in batches of similar length; keeps the `cache_entries` most recently used vectors as float16."""

    def __init__(self, tokenizer: Tokenizer, run: Run, cache_entries: int = 20_000) -> None:
        """Take over `tokenizer`: its truncation and padding are set here."""
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._run = run
        self._cache: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._cache_entries = cache_entries

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector per text [texts, dimensions]; each distinct unknown text is encoded once."""
        known = {text: self._cache[text] for text in texts if text in self._cache}
        unknown = [text for text in dict.fromkeys(texts) if text not in known]
        known |= self._encode_unknown(unknown)
        for text in known:
            self._cache[text] = known[text]
            self._cache.move_to_end(text)
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)
        return np.stack([known[text] for text in texts]).astype(np.float32)

    def _encode_unknown(self, texts: Sequence[str]) -> dict[str, NDArray[np.float16]]:
        encoded = sorted(
            zip(self._tokenizer.encode_batch(list(texts)), texts, strict=True), key=lambda pair: len(pair[0])
        )
        vectors: dict[str, NDArray[np.float16]] = {}
        for start in range(0, len(encoded), MAX_BATCH):
            batch = encoded[start : start + MAX_BATCH]
            ids = np.zeros((len(batch), len(batch[-1][0])), np.int64)
            mask = np.zeros_like(ids)
            for row, (tokens, _) in enumerate(batch):
                ids[row, : len(tokens)] = tokens.ids
                mask[row, : len(tokens)] = 1
            found = self._run(ids, mask).astype(np.float16)
            vectors |= {text: vector for (_, text), vector in zip(batch, found, strict=True)}
        return vectors
