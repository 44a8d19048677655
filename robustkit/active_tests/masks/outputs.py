"""Masks that hide the gradient or the scores, and change no decision."""

from collections.abc import Callable
from typing import TypeAlias

from robustkit.active_tests.planted.base import Planted
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Model, NoGradient, PullBack, Wrapper
from robustkit.numerics.logits import one_hot
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    Tensor,
    expand,
    magnitude,
    to_numpy,
    where,
)

__all__ = [
    "MASKS",
    "Mask",
    "detached",
    "masked",
    "noisy_gradient",
    "one_hot_outputs",
    "probabilities",
    "reversed_gradient",
    "scaled",
    "tiny_gradient",
    "zero_gradient",
]

Mask: TypeAlias = Callable[[Model], Model]


class _Masked(Wrapper):
    """A model whose answers are changed on the way out, or gradients on the way back.

    Args:
        model: To be masked.
        name: Of the mask.
        show: From the model's scores (n, classes) to those that are shown; None: the
            same.
        slopes: From scores and slopes of a loss with regard to what is shown, to
            slopes with regard to the scores; None: the same.
        back: From inputs and gradients (n, ...) to the gradients that are shown.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        *,
        show: Callable[[Tensor], Tensor] | None = None,
        slopes: Callable[[Tensor, Tensor], Tensor] | None = None,
        back: Callable[[Batch, Batch], Batch] | None = None,
    ) -> None:
        super().__init__(model)
        self.name, self._mask = f"{model.name}, {name}", name
        self._show, self._slopes, self._back = show, slopes, back

    def logits(self, x: Batch) -> Tensor:
        logits = self._model.logits(x)
        return logits if self._show is None else self._show(logits)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(x)

        def shown(slopes: Tensor) -> Batch:
            inner = slopes if self._slopes is None else self._slopes(logits, slopes)
            gradient = pull_back(inner)
            return gradient if self._back is None else self._back(x, gradient)

        return logits if self._show is None else self._show(logits), shown

    def _around(self, model: Model, *others: Model) -> Model:
        return type(self)(
            model, self._mask, show=self._show, slopes=self._slopes, back=self._back
        )


class _Detached(_Masked):
    """A model whose framework has lost track of the input."""

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        raise NoGradient(
            f"the output of the model '{self.name}' does not depend on its input in a "
            "differentiable way; use a score- or decision-based attack"
        )


def scaled(model: Model, factor: float = 1e4) -> Model:
    """Logits times a factor: cross-entropy saturates, and its gradient vanishes.

    Args:
        model: To be masked.
        factor: Positive.

    Raises:
        BadInput: The factor is not positive.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=2)
    >>> x = problem.model.to_tensor(problem.x)
    >>> ratio = scaled(problem.model, 10.0).logits(x) / problem.model.logits(x)
    >>> ratio.raw.round(6).tolist()
    [[10.0, 10.0, 10.0], [10.0, 10.0, 10.0]]
    """
    if not factor > 0:
        raise BadInput(f"logits are scaled by a factor above 0; got {factor}")
    return _Masked(
        model,
        f"logits times {factor:g}",
        show=lambda z: z * factor,
        slopes=lambda z, slopes: slopes * factor,
    )


def probabilities(model: Model) -> Model:
    """Softmax instead of logits: gradients vanish where the model is confident.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> shown = probabilities(problem.model).logits(problem.model.to_tensor(problem.x))
    >>> round(float(shown.raw.sum()), 9)
    1.0
    """

    def slopes(z: Tensor, outer: Tensor) -> Tensor:
        p = z.softmax(axis=-1)
        return p * (outer - (outer * p).sum(axis=1).expand_dims(1))

    return _Masked(model, "softmax", show=lambda z: z.softmax(axis=-1), slopes=slopes)


def one_hot_outputs(model: Model) -> Model:
    """1 for the class that wins, 0 for the others; every gradient is zero.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> model = one_hot_outputs(problem.model)
    >>> sorted(model.logits(model.to_tensor(problem.x)).raw[0].tolist())
    [0.0, 0.0, 1.0]
    """

    def show(z: Tensor) -> Tensor:
        return one_hot(z.argmax(axis=1), z.shape[1]).astype(z.dtype)

    return _Masked(model, "one-hot", show=show, back=lambda x, g: g.zeros_like())


def detached(model: Model) -> Model:
    """Scores without gradients: asking for one raises `NoGradient`.

    >>> from robustkit.active_tests.planted import affine
    >>> detached(affine(samples=1).model).name
    'affine, detached'
    """
    return _Detached(model, "detached")


def zero_gradient(model: Model) -> Model:
    """Every gradient is zero.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> model = zero_gradient(problem.model)
    >>> logits, pull_back = model.linearise(model.to_tensor(problem.x))
    >>> float(abs(pull_back(logits).raw).max())
    0.0
    """
    return _Masked(model, "zero gradient", back=lambda x, g: g.zeros_like())


def tiny_gradient(model: Model, factor: float = 1e-30) -> Model:
    """Gradients of the right direction, and next to no length.

    Args:
        model: To be masked.
        factor: Of the length.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> model = tiny_gradient(problem.model)
    >>> logits, pull_back = model.linearise(model.to_tensor(problem.x))
    >>> bool(0 < abs(pull_back(logits).raw).max() < 1e-25)
    True
    """
    return _Masked(model, f"gradient times {factor:g}", back=lambda x, g: g * factor)


def reversed_gradient(model: Model) -> Model:
    """Gradients that point the wrong way.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> model = reversed_gradient(problem.model)
    >>> logits, pull_back = model.linearise(model.to_tensor(problem.x))
    >>> _, plain = problem.model.linearise(model.to_tensor(problem.x))
    >>> bool((pull_back(logits) == -plain(logits)).all())
    True
    """
    return _Masked(model, "reversed gradient", back=lambda x, g: -g)


def noisy_gradient(model: Model, seed: int = 0) -> Model:
    """Noise of the gradient's length instead of the gradient.

    The same noise whenever the same input is asked about, whatever the company.

    Args:
        model: To be masked.
        seed: Of the noise.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=1)
    >>> model = noisy_gradient(problem.model)
    >>> logits, pull_back = model.linearise(model.to_tensor(problem.x))
    >>> bool((pull_back(logits) == pull_back(logits)).all())
    True
    """

    def back(x: Batch, gradient: Batch) -> Batch:
        rng = Rng(seed, sample_keys(to_numpy(x)), 0, x)
        noise = rng.normal(x.shape[1:])
        length: PerSample = magnitude(gradient, 2)
        drawn = magnitude(noise, 2)
        share = length / where(drawn > 0, drawn, 1.0)
        return noise * expand(share, noise)

    return _Masked(model, "noisy gradient", back=back)


MASKS: dict[str, Mask] = {
    "scaled-up": scaled,
    "scaled-down": lambda model: scaled(model, 1e-4),
    "probabilities": probabilities,
    "one-hot": one_hot_outputs,
    "detached": detached,
    "zero-gradient": zero_gradient,
    "tiny-gradient": tiny_gradient,
    "reversed-gradient": reversed_gradient,
    "noisy-gradient": noisy_gradient,
}
"""By name; each takes a model and returns one that decides as it does."""


def masked(problem: Planted, mask: str) -> Planted:
    """A planted problem behind a mask: the truth is the same.

    Args:
        problem: Of any family.
        mask: A name of `MASKS`.

    Raises:
        BadInput: No such mask.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=2)
    >>> bool((masked(problem, "one-hot").exact("l2") == problem.exact("l2")).all())
    True
    """
    if mask not in MASKS:
        raise BadInput(f"unknown mask '{mask}'; {suggestion(mask, MASKS)}")
    return problem.with_model(MASKS[mask](problem.model), f"{problem.name}, {mask}")
