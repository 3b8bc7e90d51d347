"""What the model card says: the model beside n-grams and xz, and a sample of what it writes."""

import lzma
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from corpus import Corpus
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

Tokens = NDArray[np.int64]
PROMPT = 'def read_settings(path, encoding="utf-8"):\n    """'


@dataclass(frozen=True)
class Figures:
    """All in bits per byte of the held-out modules, but for the counts and the sample."""

    bytes_library: int
    bytes_tests: int
    bytes_held_out: int
    bytes_per_token: float
    parameters: int
    model: float
    bigram: float
    trigram: float
    xz: float
    xz_for_text: float
    """xz with the literal coder set for text: lc 4, pb 0."""
    sample: str


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Tokens]:
    """Return each text's tokens, with no special token added."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def stream(documents: list[Tokens]) -> Tokens:
    """Return the documents in a row, each led by the end-of-text token (0)."""
    return np.concatenate([part for ids in documents for part in (np.zeros(1, np.int64), ids)])


def measure(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> Figures:
    """Return the figures of a trained model (float32). It costs two minutes on two cores."""
    library, tests, held_out = (encode(tokenizer, texts) for texts in corpus[:3])
    counts = [sum(len(text.encode()) for text in texts) for texts in corpus[:3]]
    tokens = sum(len(ids) for ids in held_out)
    training, bits = stream(tests + library), counts[2] * log(2)
    return Figures(
        bytes_library=counts[0],
        bytes_tests=counts[1],
        bytes_held_out=counts[2],
        bytes_per_token=counts[2] / tokens,
        parameters=model.num_parameters(),
        model=_nats(model, held_out) / bits,
        bigram=_ngram_nats(training, stream(held_out), 2, len(tokenizer)) / bits,
        trigram=_ngram_nats(training, stream(held_out), 3, len(tokenizer)) / bits,
        xz=_xz_bytes(corpus) * 8 / counts[2],
        xz_for_text=_xz_bytes(corpus, lc=4, lp=0, pb=0) * 8 / counts[2],
        sample=write_sample(model, tokenizer),
    )


@torch.no_grad()
def _nats(model: GPT2LMHeadModel, documents: list[Tokens]) -> float:
    """Return the negative log likelihood of all tokens of the documents, each counted once.

    A document is read in windows of `n_positions` targets, half a window apart, each led by the
    end-of-text token. The first window counts whole, a later one for its second half.
    """
    context, half, total = model.config.n_positions, model.config.n_positions // 2, 0.0
    for ids in documents:
        inputs, targets = list[Tokens](), list[Tokens]()
        for start in range(0, max(len(ids) - half, 1), half):
            part = ids[start : start + context]
            wanted = np.full(context, -100)
            skipped = half if start else 0
            wanted[skipped : len(part)] = part[skipped:]
            padded = np.zeros(context, np.int64)
            padded[1 : len(part)] = part[:-1]
            inputs.append(padded)
            targets.append(wanted)
        for some, those in zip(_split(inputs), _split(targets), strict=True):
            logits = model(some, use_cache=False).logits.flatten(0, 1)
            total += cross_entropy(logits, those.flatten(), reduction="sum").item()
    return total


def _split(arrays: list[Tokens]) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(np.stack(arrays)).split(16)


def _ngram_nats(training: Tokens, held_out: Tokens, order: int, vocabulary: int) -> float:
    """Return the nats that an interpolated Kneser-Ney model of tokens needs for the held-out ones.

    Its discount is the best of ten for the held-out text itself: a gift to the n-grams.
    """
    keys, wanted = (_keys(tokens, order, vocabulary) for tokens in (training, held_out))
    wanted = wanted[held_out != 0]  # what ends a document is no byte
    return min(
        -float(np.log(_kneser_ney(keys, wanted, order, vocabulary, discount)).sum())
        for discount in np.linspace(0.5, 0.95, 10)
    )


def _keys(tokens: Tokens, order: int, vocabulary: int) -> Tokens:
    """Return one number for each token and the `order - 1` before it; the text is led by zeros."""
    padded = np.concatenate([np.zeros(order - 1, np.int64), tokens])
    keys = np.zeros_like(tokens)
    for offset in range(order):
        keys = keys * vocabulary + padded[offset : offset + len(tokens)]
    return keys


def _kneser_ney(
    keys: Tokens, wanted: Tokens, order: int, vocabulary: int, discount: float
) -> NDArray[np.float64]:
    """Return the probability of the last token of each of `wanted`, given those before it.

    max(c(h, w) - D, 0) / c(h) + D * kinds(h) / c(h) * p(w | h without its first token), where the
    lower orders count in how many contexts a token stands, not how often; order 0 is uniform.
    """
    if order == 0:
        return np.full(len(wanted), 1 / vocabulary)
    found, counts = np.unique(keys, return_counts=True)
    tail = vocabulary ** (order - 1)
    lower = _kneser_ney(found % tail, wanted % tail, order - 1, vocabulary, discount)
    contexts, starts, kinds = np.unique(found // vocabulary, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, starts)
    count = np.where(_holds(found, wanted), counts[_place(found, wanted)], 0)
    place = _place(contexts, wanted // vocabulary)
    total = totals[place]
    seen = (np.maximum(count - discount, 0) + discount * kinds[place] * lower) / total
    return np.where(_holds(contexts, wanted // vocabulary), seen, lower)


def _place(values: Tokens, wanted: Tokens) -> NDArray[np.intp]:
    return np.searchsorted(values, wanted).clip(max=len(values) - 1)


def _holds(values: Tokens, wanted: Tokens) -> NDArray[np.bool_]:
    return values[_place(values, wanted)] == wanted


def _xz_bytes(corpus: Corpus, **literals: int) -> int:
    """Return by how many bytes the held-out text lengthens the xz file of the training text."""
    training = "".join(corpus.tests + corpus.library).encode()
    both = training + "".join(corpus.held_out).encode()
    dictionary = 1 << len(both).bit_length()
    how = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    filters = [how | literals]
    return len(lzma.compress(both, filters=filters)) - len(lzma.compress(training, filters=filters))


@torch.no_grad()
def write_sample(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> str:
    """Return PROMPT and what the model writes after it, drawn at temperature 0.7, 160 tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = [0, *encode(tokenizer, [PROMPT])[0].tolist()]
    for _ in range(160):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        chosen = int(torch.multinomial((logits / 0.7).softmax(0), 1, generator=generator))
        if chosen == 0:
            break
        ids.append(chosen)
    return tokenizer.backend_tokenizer.decode(ids[1:])
