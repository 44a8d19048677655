"""Checking the lower bounds of a run."""

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np

from robustkit.certify.bounds import Method
from robustkit.certify.distances import Certifier
from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside
from robustkit.evaluation.claims import Claim
from robustkit.evaluation.description import printable
from robustkit.evaluation.goals import targets_of
from robustkit.evaluation.lower import contradictions, lower_table
from robustkit.evaluation.results import LOWER, Results
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["LowerAuditor"]

# Another order of summation on another machine.
_ROUNDING = 1e-6


class LowerAuditor:
    """Goes through the data once and certifies again what a run says is certified.

    Args:
        model: To be looked into.
        criterion: Of a batch, from its labels, scores and inputs.
        results: Of the run.
        example: (1, ...) inputs or more.
    """

    def __init__(
        self,
        model: Model,
        criterion: Callable[[Array, Array, Array], Criterion],
        results: Results,
        example: Array,
    ) -> None:
        self._model, self._criterion, self._results = model, criterion, results
        self._sides = Claim("no lower bound is above the distance of an adversarial")
        self._again = Claim("what was certified is certified again")
        self._known = {
            norm: results.lower(norm)
            for norm in results.norms
            if results.lower_curve(norm) is not None
        }
        self._certifier: Certifier | None = None
        if not self._known:
            return
        (method, *others) = results.lower_methods
        for name in get_args(Method):
            if method == name and not others:
                try:
                    self._certifier = Certifier(model, example, name)
                except BadInput as error:
                    self._again.broken.append(str(error))
                return
        self._again.notes.append(
            f"bounds by {', '.join(results.lower_methods)} are not computed anew"
        )

    def look_at(self, x: Array, label: Array, start: int) -> None:
        """Check the samples of one batch of the data, numbered from `start`."""
        certifier, index = self._certifier, self._results.index
        listed = (index >= start) & (index < start + len(x))
        if certifier is None or not listed.any():
            return
        logits = to_numpy(self._model.logits(self._model.to_tensor(x)))
        targets = targets_of(self._criterion(label, logits, x), len(x))
        for norm, bounds in self._known.items():
            for place in np.flatnonzero(listed & (bounds > 0)):
                row = int(index[place]) - start
                holds = certifier.certifies(
                    x[row],
                    int(label[row]),
                    norm,
                    float(bounds[place]) * (1 - _ROUNDING),
                    int(targets[row]),
                )
                self._again.expect(
                    holds,
                    f"sample {index[place]}, {norm}: nothing is certified up to "
                    f"{bounds[place]:.9g}",
                )

    def claims(self) -> Iterator[Claim]:
        """What was found; nothing for a run without lower bounds."""
        if not self._known:
            return
        for norm, bounds in self._known.items():
            self._sides.checked += int((~np.isnan(bounds)).sum())
            self._sides.broken += contradictions(
                self._results, norm, bounds, closed=self._certifier is not None
            )
        method = self._results.lower_methods[0]
        path = inside(self._results.path / LOWER)
        written = printable(path.read_text(encoding="utf-8").splitlines())
        expected = lower_table(self._results, self._known, method).splitlines()
        for said, seen in zip(written, expected, strict=False):
            self._sides.expect(
                said == seen, f"{LOWER} has '{said}'; it must be '{seen}'"
            )
        self._sides.expect(
            len(written) == len(expected), f"{LOWER} has {len(written)} lines"
        )
        yield self._sides
        yield self._again
