"""The remedies there are, in the order in which they are tried."""

import math

import numpy as np

from robustkit.adaptive.planning import (
    aimed,
    apgd,
    auto,
    blind,
    descents,
    shared,
    sparse,
)
from robustkit.adaptive.probing import approximations, last_layer, progress
from robustkit.adaptive.remedy import Case, Plan, Remedy
from robustkit.adaptive.student import student
from robustkit.engine.criteria import Confident, Criterion, Matching
from robustkit.engine.losses import Loss, aimed_loss, get_loss
from robustkit.errors import BadInput
from robustkit.evaluation.goals import MakeCriterion, misclassified
from robustkit.models.abstaining import Abstaining
from robustkit.models.base import Access, Model
from robustkit.models.eot import EOT
from robustkit.models.estimated import Estimated
from robustkit.models.logarithms import Logarithms
from robustkit.models.surrogate import Surrogate, WithFeatures
from robustkit.numerics.tensors import Array, Tensor, like, to_numpy

__all__ = ["REMEDIES"]

# A way back is better than another if a step lowers the margin by so much more.
_BETTER = 0.02
# Questions per gradient of evolution strategies, at most, and the reach of the points
# that are asked about, in customary steps.
_QUESTIONS, _REACHES = 50, (0.5, 1.0, 2.0)
# Draws that measure how much a margin varies, and by how much of that the mean margin
# has to fall below zero: then some 70 % of single draws do.
_DRAWS, _SURE = 20, 0.5
# Fewer draws are no mean.
_MEAN = 20
# The most questions that a student is taught by.
_LESSONS = 20_000
# What outputs and features are made like.
_NEAREST = "the nearest honest sample of another class, or of the target's"
# Of probabilities.
_TOLERANCE = 1e-4


def _measured(case: Case, model: Model) -> float:
    random = case.random and not isinstance(case.current, EOT)
    return progress(model, case.x, case.label, case.step, random=random)


def _straight_through(case: Case) -> Plan | None:
    now = _measured(case, case.current)
    best, model, name = now, None, ""
    for what, candidate in approximations(case.current, case.x[:8]):
        try:
            value = _measured(case, candidate)
        except BadInput:
            continue
        if value > best + _BETTER:
            best, model, name = value, candidate, what
    if model is None:
        return None
    said = (
        f"backwards, {name} counts as the identity: a step of {case.step:.3g} along "
        f"the gradient lowers the margin by {_percent(best)} of it, and not by "
        f"{_percent(now)}"
    )
    return Plan(model, descents(case, model), said, keep=True)


def _smoothed(case: Case) -> Plan | None:
    if case.model.access < Access.SCORE:
        return None
    width, options = case.model.bounds.width, []
    # By scores, in front of which no way back matters.
    base = case.current
    count = min(_QUESTIONS, 2 * (int(case.budget) // (8 * base.passes_per_question)))
    count = max(count, 2)
    for reach in _REACHES:
        sigma = min(reach * case.step / width, 0.5)
        model = Estimated(base, count, sigma=sigma, seed=case.seed)
        options.append((_measured(case, model), sigma, model))
    value, sigma, model = max(options, key=lambda option: option[0])
    now = _measured(case, base)
    said = (
        f"gradients from {count} questions each, {sigma * width:.3g} around the point: "
        f"a step along them lowers the margin by {_percent(value)} of it, and not by "
        f"{_percent(now)}"
    )
    # Each costs many passes, so others build on them only where there are none else.
    return Plan(model, descents(case, model), said, keep=now <= 0 < value)


def _expectation(case: Case) -> Plan | None:
    if not case.random or isinstance(case.current, EOT):
        return None
    if case.current.access < Access.GRADIENT:
        model = EOT(case.current, _MEAN, seed=case.seed, batched=True)
        attacks = blind(case, model)
    else:
        measured = EOT(case.current, example=case.x[:16], seed=case.seed)
        # What varies least still decides by chance.
        samples = max(measured.samples, 10)
        model = EOT(case.current, samples, seed=case.seed, batched=True)
        attacks = descents(case, model)
    said = f"answers and gradients are means over {model.samples} draws"
    return Plan(model, attacks, said, keep=True)


def _sure(case: Case) -> Plan | None:
    if not (case.random and isinstance(case.current, EOT)):
        return None
    kappa = _SURE * _margin_noise(case)
    if case.current.access < Access.GRADIENT:
        attacks = blind(case, case.current)
    else:
        attacks = descents(case, case.current)
    said = (
        f"the mean margin has to fall below -{kappa:.3g}, {_SURE:g} standard "
        "deviations of one draw's"
    )
    return Plan(case.current, attacks, said, _confident(case.criterion, kappa))


def _margin_noise(case: Case) -> float:
    """The standard deviation of one draw's margin, at the median of the samples."""
    drawn = []
    with case.model.session():
        x = case.model.to_tensor(case.x)
        for _ in range(_DRAWS):
            logits = case.model.logits(x)
            criterion = misclassified(case.model, like(logits, case.label))
            drawn.append(to_numpy(criterion.margin(logits)).astype(np.float64))
    return float(np.median(np.std(drawn, axis=0)))


def _confident(make: MakeCriterion, kappa: float) -> MakeCriterion:
    """Criteria met by more than kappa, so that single draws agree with the mean."""

    def made(label: Array, logits: Array, x: Array) -> Criterion:
        return Confident(make(label, logits, x), kappa)

    return made


def _logarithms(case: Case) -> Plan | None:
    logits = _logits(case.current, case.x)
    sums = np.abs(logits.sum(axis=1) - 1).max()
    if logits.min() < -_TOLERANCE or sums > 10 * _TOLERANCE:
        return None
    model = Logarithms(case.current)
    before, after = (_measured(case, m) for m in (case.current, model))
    said = (
        "outputs are probabilities; their logarithms are logits again (a step lowers "
        f"their margin by {_percent(after)} of it, that of the probabilities by "
        f"{_percent(before)})"
    )
    return Plan(model, descents(case, model), said, keep=True)


def _student(case: Case) -> Plan | None:
    # A half of the budget to learn, a half to descend.
    each = case.model.passes_per_question
    passes = case.budget * max(len(case.pool), 1) // 2
    questions = min(passes // each, _LESSONS)
    if questions < 1:
        return None
    learned = student(case.model, case.pool, 2 * case.step, questions, case.seed)
    model = Surrogate(case.current, learned)
    value, now = _measured(case, model), _measured(case, case.current)
    lessons = questions * each
    if value <= 0:
        said = f"{questions} answers taught a perceptron no way down the margin"
        return Plan(case.current, {}, said, lessons=lessons)
    said = (
        f"gradients of a perceptron that learned {questions} answers of the model: a "
        f"step along them lowers the margin by {_percent(value)} of it, and not by "
        f"{_percent(now)}"
    )
    attacks = descents(case, model, share=0.5)
    return Plan(model, attacks, said, keep=now <= 0, lessons=lessons)


def _second_margin(case: Case) -> Plan | None:
    model = case.current
    if not case.model.abstains or model.access < Access.GRADIENT:
        return None
    said = "an attack has to get past the refusal too: both margins are descended"
    if isinstance(model, Abstaining) and model.detector is not None:
        scores = _logits(model.detector, case.x).reshape(-1)
        logits = np.sort(_logits(model.classifier, case.x), axis=1)
        gap = float(np.median(logits[:, -1] - logits[:, -2]))
        spread = float(np.median(np.abs(scores)))
        if spread > 0 and gap > 0:
            model = model.scaled(gap / spread)
            said += f", with the detector's score times {gap / spread:.3g}"
    if sparse(case.norm):
        return Plan(model, descents(case, model), said, keep=True)
    attacks = {
        "auto": auto(case),
        "apgd-joint": apgd(case, loss="joint"),
        "apgd-targets": aimed(case),
    }
    return Plan(model, shared(case, model, attacks), said, keep=True)


def _losses(case: Case) -> Plan | None:
    if case.current.access < Access.GRADIENT or sparse(case.norm):
        return None
    logits = case.current.to_tensor(_logits(case.current, case.x).astype(case.x.dtype))
    criterion = case.criterion(case.label, to_numpy(logits), case.x)
    way = criterion.ways(logits).argmin(axis=1)
    tried = {
        "apgd-cross-entropy": (
            apgd(case, loss="cross-entropy"),
            get_loss("cross-entropy"),
        ),
        "apgd-dlr": (apgd(case, loss="dlr", random_start=True), get_loss("dlr")),
        "apgd-targets": (aimed(case), aimed_loss("margin", way)),
        "apgd-targets-cross-entropy": (
            aimed(case, "cross-entropy"),
            aimed_loss("cross-entropy", way),
        ),
    }
    attacks = {
        name: make
        for name, (make, loss) in tried.items()
        if _defined(loss, criterion, logits)
    }
    said = "one class after another, and other losses than the margin"
    return Plan(case.current, shared(case, case.current, attacks), said)


def _defined(loss: Loss, criterion: Criterion, logits: Tensor) -> bool:
    """Whether the criterion has such a loss; that of a target has no other classes."""
    try:
        loss(criterion, logits)
    except BadInput:
        return False
    return True


def _matching(case: Case) -> Plan | None:
    if case.current.access < Access.GRADIENT or sparse(case.norm):
        return None
    criterion = _towards_honest(case, case.current)
    if criterion is None:
        return None
    makers = {"apgd-matching": apgd(case, loss="matching", random_start=True)}
    attacks = shared(case, case.current, makers)
    said = f"outputs shall be those of {_NEAREST}"
    return Plan(case.current, attacks, said, criterion)


def _towards_honest(
    case: Case, model: Model, count: int | None = None
) -> MakeCriterion | None:
    """Criteria whose goals are the outputs at the nearest sample that meets them.

    Where none does, at the one that is nearest to doing so. None: none does for any.

    Args:
        case: Whose criterion and honest samples they are.
        model: Whose outputs shall be met.
        count: With features behind so many logits, the goals are of these. None: of
            all outputs.
    """
    pool, outputs = case.honest, _logits(model, case.honest)

    def margins(criterion: Criterion, x: Array) -> Array:
        """(n, k) of each sample's criterion, at the outputs of each honest one."""
        rows = outputs[:, None, :count].astype(x.dtype)
        columns = [
            to_numpy(criterion.margin(model.to_tensor(row.repeat(len(x), axis=0))))
            for row in rows
        ]
        return np.stack(columns, axis=1)

    def made(label: Array, logits: Array, x: Array) -> Criterion:
        criterion = case.criterion(label, logits[:, :count], x)
        missing = margins(criterion, x)
        apart = ((x[:, None] - pool[None]) ** 2).reshape(len(x), len(pool), -1)
        far = np.where(missing < 0, apart.sum(axis=2), math.inf)
        some = np.isfinite(far).any(axis=1)
        nearest = np.where(some, far.argmin(axis=1), missing.argmin(axis=1))
        goals = outputs[nearest, count or 0 :].astype(x.dtype)
        return Matching(criterion, case.model.to_tensor(goals), count)

    own = case.criterion(case.label, _logits(model, case.x)[:, :count], case.x)
    return made if (margins(own, case.x) < 0).any() else None


def _features(case: Case) -> Plan | None:
    if case.current.access < Access.GRADIENT or sparse(case.norm):
        return None
    layer = last_layer(case.current, case.x[:4])
    if layer is None:
        return None
    try:
        model = WithFeatures(case.current, layer)
        criterion = _towards_honest(case, model, case.classes)
    except BadInput:
        return None
    if criterion is None:
        return None
    makers = {"apgd-features": apgd(case, loss="matching", random_start=True)}
    attacks = shared(case, model, makers)
    said = f"the features at '{layer}' shall be those of {_NEAREST}"
    return Plan(model, attacks, said, criterion)


def _more(case: Case) -> Plan | None:
    if case.current.access < Access.GRADIENT:
        said = "more passes for attacks without gradients"
        return Plan(case.current, blind(case, case.current), said)
    makers = {"auto": auto(case), "apgd": apgd(case)}
    makers["apgd-restart"] = apgd(case, random_start=True)
    attacks = shared(case, case.current, makers)
    if sparse(case.norm):
        attacks = descents(case, case.current)
    said = "more passes for the same attacks, and a restart from a random point"
    return Plan(case.current, attacks, said)


def _without_gradients(case: Case) -> Plan | None:
    return Plan(case.current, blind(case, case.current), "scores or decisions only")


def _logits(model: Model, x: Array) -> Array:
    with model.session():
        return np.array(to_numpy(model.logits(model.to_tensor(x))), np.float64)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ids(*names: str) -> frozenset[str]:
    return frozenset(names)


REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        "straight-through",
        _ids("G1", "G2", "G3", "O3"),
        "replace the backward pass of what has no useful gradient (BPDA)",
        _straight_through,
    ),
    Remedy(
        "expectation",
        _ids("R1"),
        "average answers and gradients over draws (EOT)",
        _expectation,
        cost=5,
    ),
    Remedy(
        "confidence",
        _ids("R1"),
        "look for points that single draws agree about, not only their mean",
        _sure,
        cost=5,
    ),
    Remedy(
        "logarithms",
        _ids("O1"),
        "turn probabilities back into logits",
        _logarithms,
    ),
    Remedy(
        "smoothed gradients",
        _ids("G1", "G2", "G3", "R2", "O3", "C5", "C6"),
        "estimate gradients from scores around the point (evolution strategies)",
        _smoothed,
        cost=10,
    ),
    Remedy(
        "student",
        _ids("G1", "S3"),
        "follow the gradients of a network that learned the model's answers",
        _student,
        cost=3,
    ),
    Remedy(
        "second margin",
        _ids("T3"),
        "descend the refusal's margin together with the classifier's",
        _second_margin,
        cost=2,
    ),
    Remedy(
        "other losses",
        _ids("G2", "O1", "S2", "S4", "C3", "C4", "C5", "C7", "C8", "C9", "T1", "T3"),
        "descend other losses, and aim at one class after another",
        _losses,
        cost=2,
    ),
    Remedy(
        "matching",
        _ids("O1", "C7", "C8", "S3", "T1", "T3"),
        "make the outputs those of an honest sample of another class",
        _matching,
    ),
    Remedy(
        "matching features",
        _ids("C7", "C8", "T1", "T3"),
        "make the features those of an honest sample of another class",
        _features,
    ),
    Remedy(
        "more passes",
        _ids("S1", "S2", "S4", "C1", "C3", "C4", "C10"),
        "more steps and restarts",
        _more,
        cost=6,
    ),
    Remedy(
        "no gradients",
        _ids("G1", "G2", "G3", "O1", "O3", "S3", "S4", "C2", "C5", "C6", "C9"),
        "ask for scores and decisions only",
        _without_gradients,
        cost=4,
    ),
)
"""In the order in which they are tried: first what mends gradients, since all later
ones build on it, then what is descended, then what needs no gradients."""
