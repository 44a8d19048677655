"""Black boxes that name classes in place of giving logits."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from robustkit.arguments import as_function
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, native_name
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, like, to_numpy

__all__ = ["Classes", "LabelModel"]

# What the highest of the classes that were not listed may score less than the listed.
_BELOW = 1e-6


class Classes:
    """From classes that are named to scores of all of them.

    Args:
        classes: The names in the order of the labels, or how many classes there are.
            Other names than these count as one class more, which is no label's.
        model: Who names them, for messages.

    Raises:
        BadInput: There are fewer than two classes, or names occur twice. When asked: an
            answer is not as described.
    """

    def __init__(self, classes: Sequence[str] | int, model: str) -> None:
        self._numbered = isinstance(classes, Integral)
        given: Any = range(int(classes)) if isinstance(classes, Integral) else classes
        try:
            names = list(given)
            # A text is one name, and no list of its letters.
            each_once = len(set(names)) == len(names) and not isinstance(given, str)
        except TypeError:
            names, each_once = [], False
        if len(names) < 2 or not each_once:
            raise BadInput(
                "expected how many classes there are, at least 2, or their names, each "
                f"once; got {classes!r}"
            )
        self._places = {name: place for place, name in enumerate(names)}
        self._model = model

    def one(self, answer: Any) -> Array:
        """The scores of an answer that is one class: 1, and 0 for the others."""
        row = np.zeros(self._size)
        row[self._place(answer)] = 1
        return row

    def few(self, answer: Any) -> Array:
        """The scores of an answer that is a mapping from some classes to scores.

        NaN for all where one of them is NaN: what is ahead is not known then.
        """
        try:
            pairs = list(answer.items() if isinstance(answer, Mapping) else answer)
            scores = [(self._place(key), float(value)) for key, value in pairs]
            least = min(score for _, score in scores)
            once = len({key for key, _ in pairs}) == len(pairs)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                f"expected a mapping from classes to scores, or pairs of these, and at "
                f"least one; '{self._model}' returned {answer!r}"
            ) from error
        if not once:
            raise BadInput(
                f"expected classes each once; '{self._model}' returned {answer!r}"
            )
        if any(math.isnan(score) for _, score in scores):
            return np.full(self._size, math.nan)
        row = np.full(self._size, least - _BELOW * max(1, abs(least)))
        for place, score in scores:
            row[place] = max(row[place], score)
        return row

    @property
    def others(self) -> int:
        """How many columns stand for classes that were not given: of names, one."""
        return int(not self._numbered)

    @property
    def _size(self) -> int:
        return len(self._places) + self.others

    def _place(self, answer: Any) -> int:
        if not self._numbered:
            if not isinstance(answer, str):
                raise BadInput(
                    f"expected the name of a class; '{self._model}' returned "
                    f"{answer!r}. If it returns numbers, give the number of classes"
                )
            return self._places.get(answer, len(self._places))
        number = np.asarray(answer)
        is_number = number.shape == () and number.dtype.kind in "iu"
        if is_number and int(number) in self._places:
            return int(number)
        raise BadInput(
            f"expected the number of a class, from 0 to {len(self._places) - 1}; "
            f"'{self._model}' returned {answer!r}"
        )


class LabelModel(Model):
    """A function that returns one class per input, or a few classes with scores.

    It is attacked by decision-based attacks, and where it gives scores by score-based
    ones too. Labels of the data are places in `classes`.

    With one class per input, its score is 1 and every other's 0. With scores, classes
    that were not listed score just less than the least that was: that is the most that
    can be known of them, so attacks see no slope there.

    Args:
        function: (n, ...) NumPy batch to n answers. An answer is the number or the name
            of a class; or with `scores` a mapping from these to scores (or pairs of a
            class and its score), higher for what is more likely.
        classes: The names in the order of the labels, or how many classes there are.
            Other names than these count as one class more, which is no label's.
        bounds: Of valid inputs, in input units.
        scores: Whether answers are classes with scores.
        name: For people.

    Raises:
        BadInput: It is no function, there are fewer than two classes, or names occur
            twice. When asked: an answer is not as described.

    >>> model = LabelModel(
    ...     lambda x: ["dark" if image.mean() < 0.5 else "bright" for image in x],
    ...     classes=["dark", "bright"],
    ... )
    >>> model.logits(as_tensor(np.full((1, 4), 0.8))).raw.tolist()
    [[0.0, 1.0, 0.0]]
    >>> model.access.name
    'DECISION'
    """

    def __init__(
        self,
        function: Callable[[Array], Any],
        classes: Sequence[str] | int,
        bounds: BoundsLike | None = None,
        *,
        scores: bool = False,
        name: str | None = None,
    ) -> None:
        self.bounds = as_bounds(bounds)
        self.access = Access.SCORE if scores else Access.DECISION
        self.one_class = not scores
        self.name = name or native_name(function)
        self._function = as_function(function, "the model")
        self._scored = scores
        self._classes = Classes(classes, self.name)

    @property
    def unlabelled(self) -> int:
        return self._classes.others

    def logits(self, x: Batch) -> Tensor:
        # The function gets its own copy: what it writes into it is its own affair. In
        # one layout, since sums may depend on it.
        answers = self._function(np.array(to_numpy(x), order="C"))
        answers = list(answers) if isinstance(answers, Iterable) else [answers]
        if len(answers) != x.shape[0]:
            raise BadInput(
                f"expected {x.shape[0]} answers for as many inputs; '{self.name}' "
                f"returned {len(answers)}"
            )
        row = self._classes.few if self._scored else self._classes.one
        rows = [row(answer) for answer in answers]
        return like(x, np.stack(rows)).astype(x.dtype)

    def to_tensor(self, x: Array) -> Batch:
        return as_tensor(np.array(x, order="C"))
