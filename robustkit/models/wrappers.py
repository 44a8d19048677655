"""Model to model."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from robustkit.arguments import as_whole
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, PullBack, Wrapper
from robustkit.numerics.logits import one_hot
from robustkit.numerics.tensors import Array, Batch, Tensor, as_array, like, where

__all__ = ["MajorityVote", "Preprocessed", "WithStrategy", "per_channel"]


def per_channel(
    values: float | Sequence[float] | None, name: str
) -> tuple[float, ...] | None:
    """A mean or standard deviation of all channels, or of each.

    Args:
        values: One number or several, in an array or list; None: none.
        name: Of the values, for the message.

    Raises:
        BadInput: They are something else.

    >>> per_channel(0.5, "mean")
    (0.5,)
    """
    if values is None:
        return None
    array = as_array(values, name)
    if array.dtype.kind not in "fiu" or array.ndim > 1 or array.size == 0:
        raise BadInput(
            f"{name} must be one number, or one per channel, such as [0.5, 0.4, 0.4]; "
            f"got {values!r}"
        )
    return tuple(np.atleast_1d(array).astype(np.float64).tolist())


class Preprocessed(Wrapper):
    """A model that is shown (x - mean) / std.

    The bounds, the perturbation and its size stay those of x itself.

    Args:
        model: Takes normalised inputs; its bounds are read as those of x.
        mean: One number, or one per channel.
        std: The same, all positive.
        axis: Of the channels.

    Raises:
        BadInput: A standard deviation is not positive, a number not finite, the lengths
            differ, or the model's gradients are estimated (`Estimated`). In questions:
            the axis is none of the inputs', or that of the samples. In `shown`: the
            model rounds what it is shown to within its bounds, and normalised inputs
            leave these.
    """

    def __init__(
        self,
        model: Model,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        axis: int = 1,
    ) -> None:
        super().__init__(model)
        means, stds = per_channel(mean, "mean") or (), per_channel(std, "std") or ()
        if len(means) != len(stds) or not all(s > 0 for s in stds):
            raise BadInput(
                "mean and std must have one entry per channel each, every std "
                f"positive; got mean {list(means)}, std {list(stds)}"
            )
        if not np.isfinite((*means, *stds)).all():
            raise BadInput(
                "mean and std must be finite numbers; got mean "
                f"{list(means)}, std {list(stds)}"
            )
        if model.passes_per_gradient:
            raise BadInput(
                "gradients are estimated within the bounds of what is given, so "
                "normalise before that: Estimated(Preprocessed(model, mean, std))"
            )
        self._mean, self._std, self._axis = np.array(means), np.array(stds), axis

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(self._normalise(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(self._normalise(x))
        return logits, lambda slopes: pull_back(slopes) / self._channels(self._std, x)

    def at_layer(self, layer: str) -> Model:
        return self._around(self._model.at_layer(layer))

    def shown(self, x: Batch) -> Batch:
        inner = self._normalise(x)
        seen = self._model.shown(inner)
        if seen is inner:
            return x
        self._check_room()
        back = seen * self._channels(self._std, x) + self._channels(self._mean, x)
        return self.bounds.clip(back)

    def _around(self, model: Model, *others: Model) -> Model:
        mean, std = self._mean.tolist(), self._std.tolist()
        return Preprocessed(model, mean, std, self._axis)

    def _settings(self) -> str:
        return f"{self._mean.tolist()} {self._std.tolist()} {self._axis}"

    def _check_room(self) -> None:
        """Whether what the model rounds to holds all inputs, normalised as they are."""
        lower, upper = self.bounds.lower, self.bounds.upper
        least = float(((lower - self._mean) / self._std).min())
        most = float(((upper - self._mean) / self._std).max())
        slack = 1e-6 * self.bounds.width
        if least < lower - slack or most > upper + slack:
            raise BadInput(
                f"the model '{self.name}' is sent inputs between {lower:g} and "
                f"{upper:g}, such as pictures, and would be given {least:g} to "
                f"{most:g} by (x - mean) / std; leave out mean and std, since whoever "
                "is sent pictures normalises them itself"
            )

    def _normalise(self, x: Batch) -> Batch:
        return (x - self._channels(self._mean, x)) / self._channels(self._std, x)

    def _channels(self, values: Array, x: Batch) -> Tensor:
        if not -x.ndim < self._axis < x.ndim or self._axis == 0:
            raise BadInput(
                f"axis {self._axis} of inputs of shape {tuple(x.shape)} holds no "
                "channels; name another one: Preprocessed(model, mean, std, axis=...)"
            )
        shape = [1] * x.ndim
        shape[self._axis] = len(values)
        if len(values) not in (1, x.shape[self._axis]):
            raise BadInput(
                f"{len(values)} means were given, but axis {self._axis} of inputs of "
                f"shape {x.shape} has {x.shape[self._axis]} channels"
            )
        return like(x, values.reshape(shape)).astype(x.dtype)


class MajorityVote(Wrapper):
    """A model whose answers differ from time to time, asked several times.

    The score of a class is its share of the votes; a vote is the class that one answer
    scores highest. Where two classes share the first place, neither is ahead, so an
    attack on either has not succeeded yet.

    Every question is billed as so many forward passes as there are votes, and a budget
    of passes allows fewer questions.

    Args:
        model: Whose answers are random.
        votes: How many times to ask.

    Raises:
        BadInput: There is no vote.

    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> noise = np.random.default_rng(0)
    >>> coin = NumPyModel(lambda x: x + noise.normal(size=x.shape))
    >>> MajorityVote(coin, votes=100).logits(as_tensor(np.array([[0.0, 2.0]]))).raw
    array([[0.04, 0.96]])
    """

    def __init__(self, model: Model, votes: int) -> None:
        super().__init__(model)
        votes = as_whole(votes, "the number of votes", least=1)
        self.access = min(model.access, Access.SCORE)
        self.passes_per_question = votes * model.passes_per_question
        self.passes_per_gradient = 0
        self._votes = votes

    def logits(self, x: Batch) -> Tensor:
        shares = self._vote(x)
        for _ in range(self._votes - 1):
            shares = shares + self._vote(x)
        return shares / self._votes

    def _around(self, model: Model, *others: Model) -> Model:
        return MajorityVote(model, self._votes)

    def _settings(self) -> str:
        return f"{self._votes} votes"

    def _vote(self, x: Batch) -> Tensor:
        logits = self._model.logits(x)
        vote = one_hot(logits.argmax(axis=1), logits.shape[1]).astype(logits.dtype)
        # An answer that is no number is no vote for anything.
        unknown = (logits != logits).any(axis=1)
        return where(unknown, math.nan, vote)


class WithStrategy(Wrapper):
    """A model that is asked by a strategy of yours, which sees every question.

    The place for what gets around defenses that remember questions: a strategy may
    reorder, repeat or blur what is asked, ask through other accounts, or wait.

    Args:
        model: To be asked.
        strategy: From a function that asks the model (points (m, ...) to scores (m,
            classes)) and the points asked about (n, ...) to their scores (n, classes).
            It is called once for each question of an attack; where that is about
            several points per sample, with as many at a time as there are samples, or
            256 if that is more.
        passes_per_question: Forward passes that it takes for one answer; they are
            billed.

    Raises:
        BadInput: There is less than one pass per question. In questions: the strategy
            returns something else than scores.

    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> seen = []
    >>> def watching(ask, points):
    ...     seen.append(points.shape[0])
    ...     return ask(points)
    >>> model = WithStrategy(NumPyModel(lambda x: x), watching)
    >>> _ = model.logits(as_tensor(np.zeros((3, 2))))
    >>> seen
    [3]
    """

    def __init__(
        self,
        model: Model,
        strategy: Callable[[Callable[[Batch], Tensor], Batch], Tensor],
        *,
        passes_per_question: int = 1,
    ) -> None:
        super().__init__(model)
        passes = as_whole(passes_per_question, "passes_per_question", least=1)
        # Gradients go past the strategy, and so are not to be had.
        self.access = min(model.access, Access.SCORE)
        self.passes_per_question = passes * model.passes_per_question
        self.passes_per_gradient = 0
        self._strategy, self._passes = strategy, passes

    def logits(self, x: Batch) -> Tensor:
        scores = self._strategy(self._model.logits, x)
        if not isinstance(scores, Tensor) or scores.shape[0] != x.shape[0]:
            shape = getattr(scores, "shape", ())
            raise BadInput(
                "a strategy must return scores of the kind that it is given, a row for "
                f"each of {x.shape[0]} points; got a {type(scores).__name__} of shape "
                f"{tuple(shape)}"
            )
        return scores

    def _around(self, model: Model, *others: Model) -> Model:
        return WithStrategy(model, self._strategy, passes_per_question=self._passes)
