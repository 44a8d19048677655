"""Randomness as a function of (seed, sample, step, draw), and of nothing else.

Each draw comes from a counter-based Philox stream (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011) keyed by the seed and the sample, at a counter
made of the step and the number of draws before it. So a sample sees the same numbers
whatever batch it sits in, whatever else was dropped, in any framework and after a
resume. The numbers are made by NumPy on the host.
"""

import functools
import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from robustkit.numerics.tensors import Array, Batch, PerSample, Tensor, like

__all__ = ["Rng", "sample_keys", "seeded"]

_Sampler = Callable[[np.random.Generator, Array], object]


def sample_keys(x: Array) -> Array:
    """One 64-bit key per sample, made from its content as float32.

    Keying by content rather than by position is what makes a sample's result
    independent of the order and of the company it is evaluated in.

    Args:
        x: (n, ...) inputs.

    Returns:
        (n,) uint64.
    """
    rows = np.ascontiguousarray(x, dtype=np.float32)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


class Rng:
    """The random numbers of one step, for the samples still being worked on.

    Args:
        seed: Of the whole evaluation, 0 <= seed < 2**63.
        keys: (n,) uint64, one per sample (see `sample_keys`).
        step: Position in the attack: -1 is `init`, then 0, 1, ...
        reference: A batch whose framework, device and dtype the numbers take.
        stream: Numbers of different streams are independent; attacks draw from 0.
    """

    def __init__(
        self, seed: int, keys: Array, step: int, reference: Batch, stream: int = 0
    ) -> None:
        self._seed, self._keys, self._step, self._stream = seed, keys, step, stream
        self._reference = reference
        self._draws = 0

    def normal(self, shape: tuple[int, ...]) -> Batch:
        """(n, *shape) independent standard normal values."""
        return self._draw(
            lambda g, out: g.standard_normal(out=out, dtype=out.dtype), shape
        )

    def uniform(
        self, shape: tuple[int, ...], lower: float = 0.0, upper: float = 1.0
    ) -> Batch:
        """(n, *shape) independent values, uniform on [lower, upper)."""
        unit = self._draw(lambda g, out: g.random(out=out, dtype=out.dtype), shape)
        return unit * (upper - lower) + lower

    def signs(self, shape: tuple[int, ...]) -> Batch:
        """(n, *shape) independent values, 1 or -1; many times as fast as others."""
        count = math.prod(shape)
        words = np.empty((len(self._keys), -(-count // 64)), dtype=np.uint64)
        self._fill(_words, words)
        dtype = np.float64 if "64" in str(self._reference.dtype) else np.float32
        values = np.take(_byte_signs(dtype), words.view(np.uint8), axis=0)
        values = values.reshape((len(values), -1))[:, :count]
        return like(self._reference, values.reshape((len(values), *shape)))

    def of(self, rows: Array) -> "Rng":
        """The random numbers of some of the samples, as they would be in `self`.

        Drawing them passes over nothing in `self`.
        """
        part = Rng(
            self._seed, self._keys[rows], self._step, self._reference, self._stream
        )
        part._draws = self._draws
        return part

    def integers(self, upper: int) -> PerSample:
        """(n,) int64, uniform on 0, ..., upper - 1."""
        # From uniform numbers in double precision, so that no draw is ever rejected.
        values = np.empty((len(self._keys), 1), dtype=np.float64)
        self._fill(lambda g, out: g.random(out=out), values)
        return like(self._reference, (values[:, 0] * upper).astype(np.int64))

    def _draw(self, sample: _Sampler, shape: tuple[int, ...]) -> Tensor:
        dtype = np.float64 if "64" in str(self._reference.dtype) else np.float32
        values = np.empty((len(self._keys), *shape), dtype=dtype)
        self._fill(sample, values)
        return like(self._reference, values)

    def _fill(self, sample: _Sampler, values: Array) -> None:
        # Not kept, since most steps draw nothing or once.
        bits = np.random.Philox(key=0)
        generator = np.random.Generator(bits)
        state = bits.state
        state["state"]["key"][0] = self._seed
        for at, key in enumerate(self._keys):
            state["state"]["key"][1] = key
            # The first word counts blocks within a draw.
            state["state"]["counter"][:] = (
                0,
                self._draws,
                self._step + 1,
                self._stream,
            )
            state["buffer_pos"], state["has_uint32"] = 4, 0
            bits.state = state
            sample(generator, values[at : at + 1])
        self._draws += 1


@contextmanager
def seeded(seed: int, device: Any = None) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python; put them back afterwards.

    For code of others, which draws from them.

    Args:
        seed: Of which the lowest 32 bits are used.
        device: A torch device whose generator is seeded too, if it is a GPU.
    """
    import torch

    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    before = [generator.get_state() for generator in generators]
    numpy_before = np.random.get_state()  # noqa: NPY002
    python_before = random.getstate()
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002, TID251
        random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_before)  # noqa: NPY002
        random.setstate(python_before)


@functools.lru_cache(maxsize=2)
def _byte_signs(dtype: type[np.floating[Any]]) -> Array:
    """(256, 8) of each byte, 1 for every bit that is set, else -1, highest first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return bits.astype(dtype) * 2 - 1


def _words(generator: np.random.Generator, out: Array) -> None:
    out[:] = generator.bit_generator.random_raw(out.size)
