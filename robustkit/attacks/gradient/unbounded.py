"""A change of variables in which there are no bounds to heed.

Source:
    Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
    Symposium on Security and Privacy 2017.
"""

from robustkit.engine.problem import Problem
from robustkit.numerics.tensors import Batch, maximum, minimum

__all__ = ["derivative", "from_bent", "variables"]

# So that the new variables of features at a bound are finite, in float32 too.
_INSIDE = 1 - 1e-6


def variables(p: Problem) -> Batch:
    """Those (n, ...) of the original inputs; their tanh has the bounds at -1 and 1."""
    middle = (p.bounds.upper + p.bounds.lower) / 2
    share = (p.x - middle) * (2 * _INSIDE / p.bounds.width)
    return maximum(minimum(share, _INSIDE), -_INSIDE).arctanh()


def from_bent(p: Problem, bent: Batch) -> Batch:
    """The inputs (n, ...) of which `bent` is the tanh of the variables."""
    middle = (p.bounds.upper + p.bounds.lower) / 2
    return middle + bent * (p.bounds.width / 2)


def derivative(bent: Batch) -> Batch:
    """Of the input in widths of the bounds, by the variables."""
    return (1 - bent.square()) / 2
