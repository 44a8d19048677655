"""Expectation over transformation: many draws of a random model as one answer."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from robustkit.arguments import as_seed, as_whole
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, PullBack, Wrapper
from robustkit.numerics.logits import lead
from robustkit.numerics.random import sample_keys, seeded
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Tensor,
    as_array,
    like,
    stack_rows,
    take,
    to_numpy,
)

__all__ = ["EOT"]

# For finding out how a model draws: so many rows in so many batches.
_ROWS, _BATCHES = 8, 8
# Rows of a batch share what the model draws if batches differ this many times as much
# as their rows explain. By chance, with as many logits as two, hardly ever.
_SHARED = 5.0
# Draws that measure the noise, the cosine aimed at, and the most samples.
_MEASURED, _COSINE, _MOST = 16, 0.8, 100

_Draw = tuple[Tensor, PullBack]


class EOT(Wrapper):
    """The mean answer of a random model over several draws, and its gradient.

    The draws of a sample depend on the seed and its input, and on nothing else: torch's
    and NumPy's global generators, which models draw from, are seeded for it and put
    back. So this model gives equal inputs equal answers. A model that draws from
    generators of its own gives other answers each time.

    A sample's draws are one batch, unless the model draws once for a whole batch, such
    as one size for all images; that is found out at the first question (64 passes of
    random noise, not billed), and such a model is then asked draw by draw.

    Every question is billed as so many passes as there are draws, a gradient as so many
    backward ones.

    Gradients are better estimated of the mean, by `Estimated(EOT(model))`: in
    `EOT(Estimated(model))` samples are asked about one by one, so which directions are
    tried at a point once more depends on the sample's company.

    Args:
        model: Whose answers are random.
        samples: How many draws; None: as many as the gradients at `example` need to
            have a cosine of 0.8 with the expected one, at most 100 (16 passes of each
            example, not billed).
        average: "logits"; or "probabilities", the logarithm of whose mean is then the
            answer, so that a few draws of huge logits do not decide.
        seed: Of the draws.
        example: (m, ...) valid inputs, needed without `samples`.
        batched: Ask about whole batches, draw by draw. That takes fewer and larger
            calls, many times fewer for small models; but a sample's draws then depend
            on its company.

    Source:
        Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples, ICML
        2018; for the choice of the number of draws, this project.

    Raises:
        BadInput: There is no draw, no such average, or nothing to measure on.

    >>> import torch
    >>> from robustkit.models.torch import TorchModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> coin = TorchModel(lambda x: x + torch.randn_like(x))
    >>> sure, x = EOT(coin, samples=100), as_tensor(torch.tensor([[0.0, 1.0]]))
    >>> [abs(round(float(z))) for z in sure.logits(x).raw[0]]
    [0, 1]
    >>> bool((sure.logits(x).raw == sure.logits(x).raw).all()), sure.passes_per_question
    (True, 100)
    """

    def __init__(
        self,
        model: Model,
        samples: int | None = None,
        *,
        average: str = "logits",
        seed: int = 0,
        example: Array | None = None,
        batched: bool = False,
    ) -> None:
        super().__init__(model)
        if average not in ("logits", "probabilities"):
            raise BadInput(
                f"cannot average '{average}'; EOT averages 'logits' or 'probabilities'"
            )
        seed = as_seed(seed)
        if samples is None:
            samples = _needed(model, example, seed)
        samples = as_whole(samples, "the number of draws of EOT", least=1)
        self.passes_per_question = samples * model.passes_per_question
        self.passes_per_gradient = samples * model.passes_per_gradient
        self.notes = (
            *model.notes,
            f"the answers of '{model.name}' are means over {samples} draws each",
        )
        self.samples = samples
        self._average, self._seed = average, seed
        self._batched, self._scrambled = batched, _scrambled(seed)
        # Whether the rows of one batch see draws of their own; None: not known yet.
        self._apart: bool | None = None

    def logits(self, x: Batch) -> Tensor:
        def draw(point: Batch) -> _Draw:
            return self._model.logits(point), _nowhere

        return self._over_draws(x, draw)[0]

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        return self._over_draws(x, self._model.linearise)

    def at_layer(self, layer: str) -> Model:
        inner = self._model.at_layer(layer)
        return EOT(inner, self.samples, seed=self._seed, batched=self._batched)

    def _around(self, model: Model, *others: Model) -> Model:
        return EOT(
            model,
            self.samples,
            average=self._average,
            seed=self._seed,
            batched=self._batched,
        )

    def _settings(self) -> str:
        how = "together" if self._batched else "one by one"
        return f"{self.samples} draws of {self._average}, {how}, {self._seed}"

    def _over_draws(
        self, x: Batch, draw: Callable[[Batch], _Draw]
    ) -> tuple[Tensor, PullBack]:
        """Means over the draws (n, classes), and the way back through all of them."""
        if x.shape[0] == 0:
            return draw(x)
        device, keys = _device(x), sample_keys(to_numpy(x))
        if self._batched:
            together = hashlib.blake2b(keys.tobytes(), digest_size=8).digest()
            seed = int.from_bytes(together, "little") ^ self._scrambled
            with seeded(seed, device):
                drawn = [draw(x) for _ in range(self.samples)]
            mean, way = self._mean(drawn, x.shape[0])
            return mean, self._repeatable(way, seed, device)
        if self._apart is None:
            self._apart = _draws_apart(self._model, self._noise(x), self._seed)
        means, ways = [], []
        for row, key in enumerate(keys):
            point = take(x, np.array([row]))
            seed = int(key) ^ self._scrambled
            with seeded(seed, device):
                if self._apart:
                    drawn = [draw(_copies(point, self.samples))]
                else:
                    drawn = [draw(point) for _ in range(self.samples)]
            mean, way = self._mean(drawn, 1)
            means.append(mean)
            ways.append(self._repeatable(way, seed, device))

        def pull_back(slopes: Tensor) -> Batch:
            rows = [take(slopes, np.array([row])) for row in range(len(ways))]
            return stack_rows([way(row) for way, row in zip(ways, rows, strict=True)])

        return stack_rows(means), pull_back

    def _repeatable(self, way: PullBack, seed: int, device: Any) -> PullBack:
        """A way back that asks the model, as estimates do, with draws of its own."""
        if not self._model.passes_per_gradient:
            return way

        def pull_back(slopes: Tensor) -> Batch:
            # Not those of the answer once more.
            with seeded(seed ^ 1, device):
                return way(slopes)

        return pull_back

    def _noise(self, x: Batch) -> Batch:
        """(1, ...) an input of the shape of `x`; no sample, lest their order matter."""
        bounds, rng = self.bounds, np.random.default_rng(self._seed)
        noise = rng.uniform(bounds.lower, bounds.upper, size=(1, *x.shape[1:]))
        return self._model.shown(like(x, noise).astype(x.dtype))

    def _mean(self, drawn: list[_Draw], size: int) -> tuple[Tensor, PullBack]:
        """The means (size, classes) of batches of draws, and the way back.

        Each batch holds one draw of all `size` samples after another.
        """
        logits = stack_rows([values for values, _ in drawn])
        classes = logits.shape[1]
        logits = logits.reshape((-1, size, classes))
        count = logits.shape[0]
        chances = logits.softmax(axis=-1)
        # The logarithm of what is no longer a number above zero has no slope.
        mean = chances.mean(axis=0).clip(float(np.finfo(np.float32).tiny), 1.0)

        def back(slopes: Tensor) -> Batch:
            each = slopes / count + logits.zeros_like()
            if self._average == "probabilities":
                each = each / mean
                each = chances * (each - (each * chances).sum(axis=-1, keepdims=True))
            each = each.reshape((-1, classes))
            start, parts = 0, []
            for values, way in drawn:
                rows = np.arange(start, start + values.shape[0])
                gradient = way(take(each, rows))
                parts.append(gradient.reshape((-1, size, *gradient.shape[1:])))
                start += values.shape[0]
            return stack_rows(parts).sum(axis=0)

        if self._average == "probabilities":
            return mean.log(), back
        return logits.mean(axis=0), back


def _copies(row: Tensor, count: int) -> Tensor:
    """One row (1, ...) several times."""
    return take(row, np.zeros(count, dtype=np.int64))


def _device(x: Batch) -> Any:
    """Where a torch batch lies; None for other frameworks."""
    return getattr(x.raw, "device", None) if "torch" in type(x.raw).__module__ else None


def _nowhere(_: Tensor) -> Batch:
    raise AssertionError("no way back was asked for")


def _scrambled(seed: int) -> int:
    """Another number of 64 bits for each seed, so that seeds do not meet in a key."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _draws_apart(model: Model, x: Batch, seed: int) -> bool:
    """Whether copies of one input (1, ...) in a batch see independent draws.

    Where nothing varies there, that is not known, and they are taken for shared.
    """
    with seeded(seed, _device(x)), model.session():
        answers = np.stack(
            [
                np.asarray(to_numpy(model.logits(_copies(x, _ROWS))), np.float64)
                for _ in range(_BATCHES)
            ]
        )
    # Of a class that is never given they tell nothing.
    answers = answers[..., np.isfinite(answers).all(axis=(0, 1))]
    within = answers.var(axis=1, ddof=1).mean(axis=0).sum()
    between = answers.mean(axis=1).var(axis=0, ddof=1).sum() * _ROWS
    return bool(within > 0 and between <= _SHARED * within)


def _needed(model: Model, example: Array | None, seed: int) -> int:
    """How many draws make the mean gradient of the leading gap point the right way.

    With s the squared length of the expected gradient and v the total variance of one
    draw's, the squared cosine of a mean of k draws is about s / (s + v / k).
    """
    if example is None or len(example) == 0:
        raise BadInput(
            "how many draws are needed is measured on inputs: give some as `example`, "
            "or say how many with `samples`"
        )
    if model.access < Access.GRADIENT:
        return _MEASURED
    values = as_array(example, "example")
    if values.dtype.kind != "f":
        raise BadInput(
            f"example must be floats of shape (m, ...); got the dtype {values.dtype}"
        )
    x = model.to_tensor(values)
    gradients = []
    with seeded(seed, _device(x)), model.session():
        label = model.logits(x).argmax(axis=1)
        for _ in range(_MEASURED):
            logits, pull_back = model.linearise(x)
            gradient = to_numpy(pull_back(lead(logits, label)[1]))
            gradients.append(np.asarray(gradient, np.float64).reshape(len(x), -1))
    drawn = np.nan_to_num(np.stack(gradients))
    square = (drawn**2).sum(axis=2).mean(axis=0)
    # Without the draws' products with themselves, whose noise is no signal.
    signal = (drawn.sum(axis=0) ** 2).sum(axis=1) - _MEASURED * square
    signal = signal / (_MEASURED * (_MEASURED - 1))
    ratio = np.where(
        signal > 0, (square - signal) / np.where(signal > 0, signal, 1), np.inf
    )
    needed = float(np.median(ratio)) * _COSINE**2 / (1 - _COSINE**2)
    return int(min(max(math.ceil(min(needed, _MOST)), 1), _MOST))
