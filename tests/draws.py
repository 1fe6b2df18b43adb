"""What the fuzzing draws from: quick random numbers, and messages of known words that are damaged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from zpatterns.core import Frames

T = TypeVar("T")


class Draws(random.Random):
    """As :class:`random.Random`, but for a choice and a number in a range, which cost a third: by one multiplication,
    whose bias nobody can see."""

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        return seq[int(self.random() * len(seq))]

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        if stop is None:
            return int(self.random() * start)
        return start + step * int(self.random() * ((stop - start + step - 1) // step))

    def frames(self, words: Sequence[bytes], frames_max: int, bytes_max: int) -> Frames:
        """A message of any shape: half of its frames are `words`, the others random."""
        return [
            self.choice(words) if self.random() < 0.5 else self.randbytes(self.randrange(bytes_max + 1))
            for _ in range(self.randrange(frames_max + 1))
        ]

    def times(self, most: int) -> range:
        """Mostly a few times, now and then up to `most`."""
        return range(self.randrange(self.choice((4, 12, most + 1))))


class WordMutator:
    """Draws messages of a protocol's `words`, `noise_max` at the most, and damages those it is given."""

    def __init__(self, seed: int, words: Sequence[bytes], noise_max: int) -> None:
        self.rng = Draws(seed)
        self._words = words
        self._noise_max = noise_max

    def noise(self) -> Frames:
        """Words in any order."""
        choice, words = self.rng.choice, self._words
        return [choice(words) for _ in range(self.rng.randrange(self._noise_max + 1))]

    def damaged(self, frames: Frames) -> Frames:
        """A copy that is cut, added to, or changed in one frame; or the message twice over."""
        rng = self.rng
        frames = list(frames)
        kind = rng.randrange(6)
        at = rng.randrange(len(frames) + 1)
        if kind == 0:
            del frames[at:]
        elif kind == 1:
            frames.insert(at, rng.choice(self._words))
        elif kind == 2 and at < len(frames):
            del frames[at]
        elif kind == 3 and at < len(frames):
            frames[at] = frames[at][1:] + b"!"
        elif kind == 4 and at < len(frames):
            frames[at] = rng.choice(self._words)
        else:
            frames += frames
        return frames
