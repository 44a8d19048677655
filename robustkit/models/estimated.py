"""Gradients made from scores, so that gradient-based attacks run on black boxes."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import numpy as np

from robustkit.arguments import as_number, as_seed, as_whole
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, Model, PullBack, Wrapper
from robustkit.numerics.logits import one_hot
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import (
    Batch,
    Tensor,
    expand,
    flatten,
    like,
    stack_rows,
    to_numpy,
    where,
)

__all__ = ["Estimated"]

# How many points the inner model is shown at once, if the batch has no more rows.
_AT_ONCE = 256
# Attacks draw from stream 0, random targets from 1.
_STREAM = 2


class Estimated(Wrapper):
    """A model whose gradients are differences of its scores.

    Each gradient asks the model about pairs of points at both sides of the input and
    needs no more than its scores. Whatever the loss, it is estimated from the same
    questions. They are billed: `samples` forward passes instead of a backward pass.

    Which points are asked about depends on the seed, the input and how often it was
    asked about in a row, not on the batch.

    Args:
        model: Of score access at least.
        samples: Questions per gradient; even.
        method: "nes": normally distributed directions. "spsa": directions of random
            signs. "zoo": single features, so many partial derivatives and zeros
            elsewhere; with twice as many samples as features, all of them.
        sigma: How far the points are from the input, as a share of the bounds' width.
            What the model rounds away must be less: more than 1/255 for 8-bit images.
        seed: Of the directions.

    Source:
        "nes": Ilyas, Engstrom, Athalye, Lin: Black-box Adversarial Attacks with Limited
        Queries and Information, ICML 2018. "spsa": Spall, IEEE Transactions on
        Automatic Control 1992; as an attack Uesato et al., ICML 2018. "zoo": Chen et
        al., ZOO, AISec 2017.

    Differences from the paper:
        Points stay within the bounds, and are rounded to what the model is shown; the
        estimate is the difference over the distance that is left, feature by feature,
        so that it stays unbiased for linear models.

    Raises:
        BadInput: No such method, an odd number of samples, or decisions only.

    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> model = NumPyModel(lambda x: x @ np.array([[1.0, 0.0], [-2.0, 0.0]]))
    >>> black_box = Estimated(model, samples=4, method="zoo")
    >>> _, pull_back = black_box.linearise(as_tensor(np.array([[0.5, 0.0]])))
    >>> pull_back(as_tensor(np.array([[1.0, -1.0]]))).numpy().round(6).tolist()
    [[1.0, -2.0]]
    """

    def __init__(
        self,
        model: Model,
        samples: int = 50,
        method: str = "nes",
        *,
        sigma: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if method not in _METHODS:
            raise BadInput(f"unknown method '{method}'; {suggestion(method, _METHODS)}")
        samples = as_whole(samples, "the number of samples")
        if samples < 2 or samples % 2:
            raise BadInput(
                f"samples must be an even number of at least 2; got {samples}"
            )
        sigma = as_number(sigma, "sigma")
        if not 0 < sigma < 1:
            raise BadInput(f"sigma must be a share between 0 and 1; got {sigma}")
        seed = as_seed(seed)
        if model.access < Access.SCORE:
            raise BadInput(
                f"the model '{model.name}' shows decisions only, from which gradients "
                "cannot be estimated; use a decision-based attack"
            )
        self.access = Access.GRADIENT
        self.passes_per_gradient = samples * model.passes_per_question
        self.notes = (
            *model.notes,
            f"gradients of '{model.name}' are estimated ({method}) from {samples} "
            "questions each, which are counted as forward passes",
        )
        self._samples, self._method = samples, method
        self._sigma, self._seed = sigma, seed
        # How often in a row each input of the last gradients has been asked about.
        self._repeats: dict[int, int] = {}
        self._open = False

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        def pull_back(slopes: Tensor) -> Batch:
            total = 0.0 * x
            size = max(_AT_ONCE // (2 * max(x.shape[0], 1)), 1)
            pairs = list(self._pairs(x))
            for start in range(0, len(pairs), size):
                total = total + self._summed(x, slopes, pairs[start : start + size])
            return total if self._method == "zoo" else total / (self._samples // 2)

        return self._model.logits(x), pull_back

    def session(self) -> AbstractContextManager[None]:
        return self._model.session() if self._open else self._fresh()

    def _around(self, model: Model, *others: Model) -> Model:
        return Estimated(
            model, self._samples, self._method, sigma=self._sigma, seed=self._seed
        )

    def _settings(self) -> str:
        return f"{self._samples} {self._method} {self._sigma} {self._seed}"

    @contextmanager
    def _fresh(self) -> Iterator[None]:
        """A session at whose start nothing has been asked about yet."""
        self._open, self._repeats = True, {}
        try:
            with self._model.session():
                yield
        finally:
            self._open = False

    def _pairs(self, x: Batch) -> Iterator[Tensor]:
        """(n, ...) directions, a new one for each pair."""
        keys = sample_keys(to_numpy(x))
        counts = [self._repeats.get(int(key), -1) + 1 for key in keys]
        self._repeats = {
            int(key): count for key, count in zip(keys, counts, strict=True)
        }
        # A key of its own for each repetition of an input.
        keys = keys + np.array(counts, dtype=np.uint64)
        rng = Rng(self._seed, keys, 0, x, stream=_STREAM)
        return _METHODS[self._method](rng, x, self._samples // 2)

    def _summed(self, x: Batch, slopes: Tensor, pairs: list[Tensor]) -> Batch:
        """The sum of the estimates by some directions."""
        reach = self._sigma * self.bounds.width
        ahead = [self.shown(self.bounds.clip(x + reach * pair)) for pair in pairs]
        behind = [self.shown(self.bounds.clip(x - reach * pair)) for pair in pairs]
        logits = self._model.logits(stack_rows(ahead + behind))
        logits = logits.reshape((2, len(pairs), *slopes.shape))
        # What the loss does not depend on may be infinite.
        logits = where(slopes + logits.zeros_like() == 0, 0.0, logits)
        rises = ((logits[0] - logits[1]) * slopes).sum(axis=-1)
        total = 0.0 * x
        for place, pair in enumerate(pairs):
            apart = ahead[place] - behind[place]
            slope = pair.square() / where(apart == 0, math.inf, apart)
            total = total + expand(rises[place], x) * slope
        return total


_Method: TypeAlias = Callable[[Rng, Batch, int], Iterator[Tensor]]


def _normal(rng: Rng, x: Batch, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        yield rng.normal(x.shape[1:])


def _signs(rng: Rng, x: Batch, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        yield where(rng.uniform(x.shape[1:]) < 0.5, -1.0 + 0.0 * x, 1.0)


def _single(rng: Rng, x: Batch, count: int) -> Iterator[Tensor]:
    """Different features of each sample, in random order, and zeros afterwards."""
    keys = to_numpy(flatten(rng.uniform(x.shape[1:])))
    order = np.argsort(keys, axis=1)
    for place in range(count):
        if place >= order.shape[1]:
            yield 0.0 * x
            continue
        unit = one_hot(like(x, order[:, place]), order.shape[1])
        yield unit.astype(x.dtype).reshape(x.shape)


_METHODS: dict[str, _Method] = {"nes": _normal, "spsa": _signs, "zoo": _single}
