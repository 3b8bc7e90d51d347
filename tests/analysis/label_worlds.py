"""Texts and images of which it is known where each feature fires."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import BackgroundRows, ImageInputs, SampledFirings, TextInputs

BOS = 0
WORDS = [
    *(" the", " cat", " Red", "red", " dog", " of", "\n", "\n    ", "(", ")", '"', " alarm", "#"),
    *(" import", "im", "port", "imp", "ort", " ex", " s", " def", " None", " none", "=", "42"),
    *(" running", " sitting", " king", " sing", " going", " being", " eating", " lying", " using"),
    *(" doing", " string", " unfit", " undo", " unwell", "7", "12", "1999", "0", "3", "55", "600"),
    *("81", "9", "77"),
]
PIECES = [b"<bos>", *(word.encode() for word in WORDS)]
ID = {word: i + 1 for i, word in enumerate(WORDS)}
PHRASES = [["im", "port"], ["imp", "ort"], [" ex", "port"], [" s", "ort"], [" the", " cat"]]


@dataclass(frozen=True)
class Samples:
    """What `label_features` takes."""

    firings: SampledFirings
    background: BackgroundRows
    inputs: TextInputs | ImageInputs
    density: NDArray[np.float64]

    def all(
        self,
    ) -> tuple[SampledFirings, BackgroundRows, TextInputs | ImageInputs, NDArray[np.float64]]:
        """Return them in the order in which they are taken."""
        return self.firings, self.background, self.inputs, self.density


def texts(
    runs: list[list[int]], pieces: list[bytes] = PIECES, special: tuple[int, ...] = (BOS,)
) -> TextInputs:
    """Return some contexts of token ids as inputs."""
    count = len(runs)
    return TextInputs(
        np.array([token for run in runs for token in run], np.int32),
        np.cumsum([0, *map(len, runs)], dtype=np.int64),
        np.zeros(count, np.int32),
        np.zeros(count, np.int32),
        ["document"],
        pieces,
        list(special),
    )


def random_texts(contexts: int = 400, length: int = 40, seed: int = 0) -> TextInputs:
    """Return contexts of random words, of which some come in phrases."""
    generator = np.random.default_rng(seed)
    runs: list[list[int]] = []
    for _ in range(contexts):
        run = [BOS]
        while len(run) < length:
            if generator.random() < 0.25:
                run += [ID[word] for word in PHRASES[generator.integers(len(PHRASES))]]
            else:
                run.append(int(generator.integers(1, len(PIECES))))
        runs.append(run)
    return texts(runs)


def images(count: int = 400, seed: int = 0) -> ImageInputs:
    """Return grey images of 8 x 8 on a grid of 4 x 4, of six classes; patches are even."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 256, (count, 4, 4, 1), np.uint8)
    return ImageInputs(
        patches.repeat(2, 1).repeat(2, 2),
        generator.integers(0, 6, count).astype(np.int32),
        [f"image {i}" for i in range(count)],
        [f"kind {i}" for i in range(6)],
        (4, 4),
    )


def sampled(
    inputs: TextInputs | ImageInputs,
    context: NDArray[np.int64],
    position: NDArray[np.int64],
    fires: NDArray[np.bool_],
    *,
    most: int = 100,
    background: int = 4000,
    seed: int = 0,
) -> Samples:
    """Draw samples where it is known which features fire on which rows.

    Args:
        inputs: the contexts.
        context: of every row, [rows].
        position: of every row, [rows].
        fires: [features, rows].
        most: firings a feature.
        background: rows of the other sample.
        seed: of what is drawn.
    """
    generator = np.random.default_rng(seed)
    feature: list[int] = []
    rows: list[int] = []
    for number, fired in enumerate(fires):
        own = generator.permutation(np.flatnonzero(fired))[:most]
        feature += [number] * len(own)
        rows += own.tolist()
    drawn = generator.permutation(len(context))[:background]
    entries = [np.flatnonzero(fires[:, row]) for row in drawn]
    return Samples(
        SampledFirings(
            np.array(feature, np.int64),
            context[rows],
            position[rows],
            generator.random(len(rows)).astype(np.float32),
        ),
        BackgroundRows(
            context[drawn],
            position[drawn],
            np.cumsum([0, *map(len, entries)], dtype=np.int64),
            np.concatenate([*entries, np.zeros(0, np.int64)]).astype(np.int64),
        ),
        inputs,
        fires.mean(1),
    )


def rows_of(inputs: TextInputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return context and position of every token that is not special."""
    lengths = np.diff(inputs.offsets)
    context = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(inputs.tokens)) - inputs.offsets[:-1][context]
    kept = ~np.isin(inputs.tokens, inputs.special)
    return context[kept], position[kept]


def patches_of(inputs: ImageInputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return context and position of every patch."""
    count, cells = len(inputs.thumbnails), inputs.grid[0] * inputs.grid[1]
    return np.repeat(np.arange(count), cells), np.tile(np.arange(cells), count)
