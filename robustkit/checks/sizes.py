"""How far the attacks of a run have looked."""

import math
import re

import numpy as np

from robustkit.engine.attack import edge
from robustkit.evaluation.results import Results

__all__ = ["of_interest", "only_size", "reach"]

_SIZE = re.compile(r"\bepsilon=([^,()]+)")
# How NumPy shows its numbers.
_NUMPY = re.compile(r"\bnp\.\w+\(([^()]*)\)")


def only_size(shown: str) -> tuple[float, str] | None:
    """The one size that an attack is for, in norm units, and all else that it shows.

    Args:
        shown: The attack and its settings, as run.json has them.

    Returns:
        None where the attack may go anywhere.

    >>> only_size("Cascade(attacks=(PGD(epsilon=0.1, steps=40),), epsilon=0.1)")
    (0.1, 'Cascade(attacks=(PGD(epsilon, steps=40),), epsilon)')
    >>> only_size("FMN(steps=1000)") is None
    True
    """
    # A search over the radius has one of its own, which is none of these.
    if shown.startswith("Minimise("):
        return None
    shown = _NUMPY.sub(r"\1", shown)
    try:
        sizes = {float(size) for size in _SIZE.findall(shown)}
    except ValueError:
        return None
    if len(sizes) != 1 or not max(sizes) > 0:
        return None
    return max(sizes), _SIZE.sub("epsilon", shown)


def reach(results: Results, norm: str, attack: str) -> float:
    """Beyond which size an attack's silence says nothing; infinite: beyond none.

    An attack that found something farther away than the size it is for, as one that
    minimises at the end of a cascade does, has looked there.

    Args:
        results: A run.
        norm: Whose distances.
        attack: Its name.
    """
    told = only_size(_shown(results, norm, attack))
    if told is None:
        return math.inf
    distance = results.distances(norm, attack)
    beyond = np.isfinite(distance) & (distance > edge(told[0]))
    return math.inf if beyond.any() else told[0]


def of_interest(results: Results, norm: str, attack: str) -> float:
    """The one size at which an attack's distances say something; infinite: at all.

    Whoever is within that size is done with, however near that may be. Of a cascade
    this is so whatever comes last.

    Args:
        results: A run.
        norm: Whose distances.
        attack: Its name.
    """
    shown = _shown(results, norm, attack)
    told = only_size(shown)
    if told is not None and shown.startswith("Cascade("):
        return told[0]
    return reach(results, norm, attack)


def _shown(results: Results, norm: str, attack: str) -> str:
    return str(results.run["config"]["attacks"][norm].get(attack, ""))
