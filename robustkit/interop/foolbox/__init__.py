"""foolbox models as ours, its attacks as ours, and our attacks as its own.

A foolbox model (`FoolboxModel`) carries over with its bounds, preprocessing and
wrappers: with gradients through all of them for PyTorch and JAX, with scores for NumPy.
What does not: TensorFlow models, and counting inside
`ExpectationOverTransformationWrapper`, whose draws together are one question.

A foolbox attack (`foolbox_attack`) is its own code, unchanged, on torch tensors, with
its own settings and with `starting_points` from the problem's `starts`; it
differentiates through our model, whatever framework that is written in. Every call of
the model is a question of the problem: clipped to the bounds (what is not finite
becomes the original's value), billed, and remembered with our own margin and distance,
whatever the attack makes of it. An attack that needs decisions only is shown no more.
What does not carry over: `early_stop`; plans for a budget (an attack is stopped when it
is spent); for attacks that want to know a class, any criterion but misclassification
and targets; and independence of the batch, since many of foolbox's attacks share random
numbers or stopping among the samples of a batch.

One of our attacks (`as_foolbox`) serves foolbox's call signature, with `epsilons`,
`starting_points`, `distance` and `repeat`. What does not carry over: `early_stop`, and
what foolbox's own distances cannot do, such as reducing L0.
"""

import importlib
import warnings

from robustkit.errors import MissingPackage

# Before the modules below, which take it for granted.
try:
    with warnings.catch_warnings():
        # It imports names that SciPy deprecates.
        warnings.simplefilter("ignore")
        importlib.import_module("foolbox")
except ImportError as error:
    raise MissingPackage("foolbox", "foolbox", "a foolbox model or attack") from error

from robustkit.interop.foolbox.guests import foolbox_attack
from robustkit.interop.foolbox.lent import as_foolbox
from robustkit.interop.foolbox.models import FoolboxModel

__all__ = ["FoolboxModel", "as_foolbox", "foolbox_attack"]
