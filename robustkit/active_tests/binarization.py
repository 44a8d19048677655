"""The binarization test: does an attack find adversarials that are known to exist?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustkit.active_tests.build import Builder
from robustkit.active_tests.draws import GAP
from robustkit.active_tests.features import Features, find_features
from robustkit.active_tests.native import PlainAttack
from robustkit.active_tests.problems import Binarized
from robustkit.active_tests.readouts import CLOSENESS, RANDOM_CLOSENESS, Fit, Head
from robustkit.active_tests.verdict import ActiveTestResult
from robustkit.arguments import as_number, as_seed, as_whole
from robustkit.engine.attack import Attack
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.preflight import check_logits
from robustkit.evaluation.single import adapted_inputs
from robustkit.models.base import Model
from robustkit.models.isolated import isolated
from robustkit.numerics.bounds import BoundsLike
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array, Tensor, as_tensor, to_numpy

__all__ = ["active_test", "binarize"]

# Of the model's two highest logits, where they are (all but) tied.
_LEAST_MARGIN = 1e-6


def active_test(
    model: Any,
    x: Any,
    attack: str | Attack[Any] | PlainAttack,
    *,
    epsilon: float,
    norm: str | Norm = "linf",
    features: Features | None = None,
    mode: str = "standard",
    detector: Any = None,
    inverted: bool = False,
    samples: int | None = 128,
    seed: int = 0,
    bounds: BoundsLike | None = None,
    votes: int = 1,
    points: int = 1000,
    tries: int = 200,
    closeness: float | None = None,
    budget: int | None = None,
) -> ActiveTestResult:
    """Test an attack on problems made of a model, whose adversarials are known.

    For each input a linear readout of the model's features replaces its last layer.
    It calls the input and points around it class 0, and a point within epsilon, the
    witness, class 1. So an adversarial within epsilon exists for certain, and an attack
    that does not find one has failed, for whatever reason: gradients masked in the
    features or by the scale of the logits (which the readout's keep), a step size or
    loss that does not fit, too few steps, a bug.

    A PASS says that the attack can find adversarials through these features; it does
    not say that it finds the original model's, nor that there are none.

    Args:
        model: Anything `as_model` accepts.
        x: (n, ...) inputs within the bounds; no labels are needed.
        attack: A name, an attack (one with a fixed budget must have this epsilon), or a
            plain function from (model, x, y) to adversarials (n, ...). The function
            gets a torch module and tensors where the model is one (else a function on
            arrays), and labels that are all zero.
        epsilon: The largest perturbation allowed, in norm units.
        norm: In which it is measured.
        features: What the readouts look at: a layer's name (torch), a function from
            inputs to features, a pair of that and the head on it, or None, the logits.
            Take the last layer before the classifier, unless the defense sits behind
            it. Functions are given inputs as they are within the bounds.
        mode: "standard": random directions, the threshold below the best of `points`
            random points, which random search reaches with the probability
            tries / (tries + points). "hard": the witness is found by a search along
            the gradient, and no random point comes near. "logistic": the original
            test, a logistic regression between one random point and all inner ones.
        detector: A function from inputs to scores (n,), above 0 where it detects
            something. Adversarial is then what is class 1 and not detected.
        inverted: With a detector: what is class 1 and detected. An attack on a model
            with a detector should pass both; one that ignores it may pass one.
        samples: Use so many of the inputs at most; None: all. Fewer than 72 cannot give
            a PASS.
        seed: Of all randomness.
        bounds: Of valid inputs; None: the model's own, else (0, 1).
        votes: For random models: average features over so many passes when the test is
            built, and let the majority of as many decide on success. The attack sees
            single passes.
        points: Inner points per sample, and candidates for the witness.
        tries: Points that random search may try, so many inside and on the surface.
        closeness: Where the threshold lies between the last inner point (0) and the
            witness (1); None: 0.99, in the mode "hard" 0.9, in "logistic" 0.999, and
            0.5 with votes, so that the witness stands out from the noise.
        budget: Model passes per sample that count; None: the attack's own.

    Returns:
        The verdict, the rates it rests on, and the witnesses.

    Source:
        Zimmermann, Brendel, Tramer, Carlini: Increasing Confidence in Adversarial
        Robustness Evaluations, NeurIPS 2022.

    Differences from the paper:
        - The mode "standard" has a random direction and an order statistic in place of
          a regression, so that the chance of random search is known beforehand; the
          mode "hard" is new, and the thresholds of the verdict are ours.
        - Samples share one batch and one call of the attack.
        - The readout's margin at inner points is on average what the model's was at the
          original, and its logits are as many as the model's: all but two constant.
        - Random search obeys the detector, as the attack has to.
        - All norms, with the box in mind; witnesses and successes are verified.

    Raises:
        BadInput: Something given is not as described.

    >>> import robustkit as rk
    >>> from robustkit import demo
    >>> x, _ = demo.load_data("digits")
    >>> test = rk.active_test("digits", x, rk.PGD(0.1), epsilon=0.1, samples=80)
    >>> test.verdict.value
    'PASS'
    """
    binarized = binarize(
        model,
        x,
        epsilon=epsilon,
        norm=norm,
        features=features,
        mode=mode,
        detector=detector,
        inverted=inverted,
        samples=samples,
        seed=seed,
        bounds=bounds,
        votes=votes,
        points=points,
        tries=tries,
        closeness=closeness,
    )
    return binarized.test(attack, budget=budget)


def binarize(
    model: Any,
    x: Any,
    *,
    epsilon: float,
    norm: str | Norm = "linf",
    features: Features | None = None,
    mode: str = "standard",
    detector: Any = None,
    inverted: bool = False,
    samples: int | None = 128,
    seed: int = 0,
    bounds: BoundsLike | None = None,
    votes: int = 1,
    points: int = 1000,
    tries: int = 200,
    closeness: float | None = None,
) -> Binarized:
    """Make the problems of `active_test`, to try several attacks on them."""
    given, _, host = adapted_inputs(model, x, bounds)
    # What is known of witnesses is known to the last digits.
    whole = isolated(given.precise())
    chosen = get_norm(norm)
    chosen.check(as_tensor(host))
    if not (isinstance(mode, str) and mode in CLOSENESS):
        raise BadInput(f"unknown mode '{mode}'; {suggestion(mode, CLOSENESS)}")
    usual = CLOSENESS[mode] if votes == 1 else RANDOM_CLOSENESS
    place = usual if closeness is None else closeness
    _check(epsilon, chosen, place, votes, points, tries, samples, seed)
    host = host[:samples]
    if inverted and detector is None:
        raise BadInput("inverted=True is about a detector; give one")
    cut, name = find_features(whole, features, detector, host[:2])
    sign = 0 if detector is None else -1 if inverted else 1
    builder = Builder(
        model=cut,
        norm=chosen,
        epsilon=float(epsilon),
        detector=sign,
        mode=mode,
        closeness=place,
        points=points,
        tries=tries,
        votes=votes,
        seed=seed,
    )
    with cut.session():
        built = builder.build(host)
    flaws = [one.fit.flaw for one in built]
    rows = np.flatnonzero([not flaw for flaw in flaws])
    fits = [built[row].fit for row in rows]
    binarized = Binarized(
        model=cut,
        x=host,
        norm=chosen,
        epsilon=float(epsilon),
        rows=rows,
        head=_head(whole, host[rows], fits, sign),
        witness=np.stack([fit.witness for fit in fits]) if fits else host[:0],
        random=np.array([built[row].random for row in rows], dtype=bool),
        flaws=tuple(flaws),
        settings={
            "model": whole.name,
            "norm": repr(chosen),
            "epsilon": float(epsilon),
            "features": name,
            "mode": mode,
            "closeness": place,
            "detector": detector is not None,
            "inverted": inverted,
            "votes": votes,
            "points": points,
            "tries": tries,
            "gap": GAP,
            "seed": seed,
        },
    )
    return binarized.verified()


def _head(whole: Model, x: Array, fits: Sequence[Fit], sign: int) -> Head:
    """The readouts of samples (n, ...), in the shape and scale of the model's logits.

    On average over the inner points, a readout's margin is what the model's two highest
    logits differ by at the original.
    """

    def tensor(values: Array) -> Tensor:
        return whole.to_tensor(values.astype(x.dtype))

    if not fits:
        empty = np.zeros((0, 1))
        return Head(
            tensor(empty), tensor(empty[:, 0]), tensor(empty[:, 0]), tensor(empty), sign
        )
    answers = check_logits(whole, to_numpy(whole.logits(whole.to_tensor(x))), len(x))
    logits = np.sort(answers.astype("f8"))[:, ::-1]
    logits = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)
    margin = np.maximum(logits[:, 0] - logits[:, 1], _LEAST_MARGIN)
    lower = np.minimum(logits[:, 2:] - logits[:, :1], -margin[:, None])
    threshold = np.array([fit.threshold for fit in fits])
    middle = np.array([fit.middle for fit in fits])
    return Head(
        direction=tensor(np.stack([fit.direction for fit in fits])),
        threshold=tensor(threshold),
        scale=tensor(margin / (threshold - middle)),
        others=tensor(lower),
        detector=sign,
    )


def _check(
    epsilon: float,
    norm: Norm,
    closeness: float,
    votes: int,
    points: int,
    tries: int,
    samples: int | None,
    seed: int,
) -> None:
    as_number(epsilon, "epsilon", above=0, least=1 if norm.name == "l0" else None)
    if not 0 < as_number(closeness, "closeness") < 1:
        raise BadInput(f"closeness must lie between 0 and 1; got {closeness}")
    counts = {"votes": votes, "points": points, "tries": tries, "samples": samples}
    for name, count in counts.items():
        if count is not None:
            as_whole(count, name, least=1)
    as_seed(seed)
