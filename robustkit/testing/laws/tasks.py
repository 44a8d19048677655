"""Laws about tasks that attacks trip over."""

from dataclasses import replace

import numpy as np

from robustkit.active_tests.masks import one_hot_outputs
from robustkit.models.base import Access
from robustkit.testing.laws.shared import (
    DOUBLE,
    SINGLE,
    box_of,
    listed,
    part_of,
    range_of,
    require_found,
    require_same,
    require_sound,
    rows_of,
    run_again,
)
from robustkit.testing.models import constant, nan_near
from robustkit.testing.trial import Trial, check_shapes, seeded

__all__ = [
    "already_adversarial",
    "any_framework",
    "constant_logits",
    "empty_batch",
    "float64",
    "nan_answers",
    "nearest_class",
    "other_bounds",
    "targets",
    "two_classes",
    "zero_gradients",
]


def other_bounds(t: Trial) -> None:
    """Bounds other than [0, 1] are kept, and made use of."""
    for bounds in ((-3.0, 5.0), (0.0, 255.0)):
        task = t.affine(bounds=bounds)
        v = t.run(task)
        v.require(v.finite, "finite values", "NaN or infinity")
        v.require(v.inside, f"values within {box_of(task)}", range_of(v))
        require_sound(t, v)


def two_classes(t: Trial) -> None:
    """A model of two classes is as good as any."""
    v = t.run(t.affine(classes=2), refusable=True)
    require_sound(t, v)
    if np.isfinite(t.factor) and not t.subject.bounded:
        exact = v.task.exact(t.norm)
        # There is one class to go to, so nothing misleads.
        v.require(
            ~v.success | (v.distance <= t.factor * exact * (1 + SINGLE)),
            f"at most {t.factor:g} x the minimum, {listed(exact)}",
            v.distance,
        )


def nearest_class(t: Trial) -> None:
    """The class that is nearest counts, where another one scores second too."""
    if not t.complete:
        t.skip("it promises no adversarial of everybody, and may go one way")
    for task in t.misleading():
        require_sound(t, t.run(task))


def targets(t: Trial) -> None:
    """With targets, success is the target's class and no other."""
    if "targets" not in t.subject.takes:
        t.skip("it takes no targets")
    v = t.run(t.affine(targeted=True), refusable=True)
    v.require(~v.claims | v.adversarial, "the target's class, as claimed", "another")
    exact = v.task.exact(t.norm)
    slack = 1 - (DOUBLE if v.points.dtype == np.float64 else SINGLE)
    v.require(v.distance >= exact * slack, f"at least {listed(exact)}", v.distance)
    if t.complete:
        require_found(t, v)


def constant_logits(t: Trial) -> None:
    """A model that says the same of everything is never fooled, and never a crash."""
    task = t.affine()
    # All are of the first class: it is where a tie is decided.
    same = replace(task, y=np.zeros_like(task.y)).with_model(
        constant(task.model), "constant logits"
    )
    v = t.run(same, epsilon=t.epsilon(task) if t.subject.bounded else None)
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(~v.claims, "no adversarial: a tie is none", "a claim")


def zero_gradients(t: Trial) -> None:
    """Gradients of zero make an attack fail at most, not crash or lie."""
    task = t.affine()
    v = t.run(task.with_model(one_hot_outputs(task.model), "zero gradients"))
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(v.inside, f"values within {box_of(task)}", range_of(v))
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if t.subject.access < Access.SCORE:
        require_sound(t, v)


def nan_answers(t: Trial) -> None:
    """NaN in the answers about one sample is no success, and no matter to others."""
    task = t.affine()
    broken = task.with_model(nan_near(task.model, task.x, 0), "NaN around sample 0")
    v = t.run(broken)
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if not t.unrepeatable:
        others = slice(1, None)
        without = run_again(t, rows_of(broken, others), v)
        require_same(t, part_of(v, others), without, "as without sample 0")


def already_adversarial(t: Trial) -> None:
    """An input that is misclassified already is its own adversarial."""
    task = t.affine()
    labels = task.y.copy()
    labels[0] = (labels[0] + 1) % 3
    v = t.run(replace(task, name="sample 0 misclassified", y=labels))
    v.require(v.finite, "finite values", "NaN or infinity")
    first = np.arange(t.samples) == 0
    v.require(v.success | ~first, "an adversarial: the input is one", "none")
    if not t.subject.bounded:
        v.require((v.distance <= 1e-6) | ~first, "the distance 0", v.distance)
    if not t.unrepeatable:
        others = slice(1, None)
        usual = part_of(t.run(task), others)
        require_same(t, part_of(v, others), usual, "as beside other samples")


def empty_batch(t: Trial) -> None:
    """An empty batch gives an empty batch, or is refused by an error."""
    task = rows_of(t.affine(), slice(0, 0))
    settings = t.settings(t.affine())
    try:
        with seeded(0):
            outcome = t.subject.attack(task, settings)
    except Exception as error:
        if t.subject.billed:
            raise AssertionError(
                f"expected an empty batch for an empty batch; it raised {error!r}"
            ) from error
        t.skip(f"it refuses an empty batch: {type(error).__name__}: {error}")
    check_shapes(task, outcome)


def float64(t: Trial) -> None:
    """Points have the precision of the inputs, single or double."""
    for dtype in (np.float32, np.float64):
        v = t.run(t.affine(dtype=dtype))
        if v.points.dtype != dtype:
            raise AssertionError(
                f"expected {np.dtype(dtype)} for {np.dtype(dtype)}; got "
                f"{v.points.dtype}"
            )
        require_sound(t, v)


def any_framework(t: Trial) -> None:
    """Torch and NumPy tensors lead to the same distances, to 5 %."""
    task = t.affine()
    if not t.subject.billed:
        t.skip("a function is written for one framework")
    expected = t.run(task).distance
    v = t.run(task, torch=True)
    v.require(
        np.isclose(v.distance, expected, rtol=0.05),
        f"the distances {listed(expected)} that NumPy leads to",
        v.distance,
    )
