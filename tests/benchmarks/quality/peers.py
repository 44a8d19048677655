"""The minimum-norm attacks of other libraries, each spending a given number of passes.

Every entry is a function of (recorder, passes) that runs the attack on the recorder as
its model and returns the last points. Settings are the libraries' defaults unless
something else is known to be better at so many passes.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from recorder import ORDER, Recorder, Spent, distance
from torch import Tensor

_PEERS = Path(__file__).resolve().parents[2] / "peers"

Run = Callable[[Recorder, int], Tensor]


@dataclass(frozen=True)
class Peer:
    """One attack of another library.

    Attributes:
        package: The distribution it comes from.
        norms: It can minimise.
        run: Runs it.
        in_order: Whether it always asks about all samples in their order.
        slow: Whether it takes far longer than the others.
        aims: Whether it can be aimed at a class.
    """

    package: str
    norms: tuple[str, ...]
    run: Run
    in_order: bool = True
    slow: bool = False
    aims: bool = True

    @property
    def version(self) -> str:
        """The installed package and its version."""
        return f"{self.package}-{version(self.package)}"


@cache
def _adv_lib() -> Any:
    spec = importlib.util.spec_from_file_location("shim", _PEERS / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    return shim.import_peer("adv_lib.attacks")


def _fmn(r: Recorder, passes: int) -> Tensor:
    first = 10.0 if r.norm == "linf" else 1.0
    return _adv_lib().fmn(
        r, r.x, r.y, ORDER[r.norm], r.targeted, steps=passes, α_init=first
    )


def _alma(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().alma(
        r,
        r.x,
        r.y,
        targeted=r.targeted,
        num_steps=passes,
        distance=r.norm,
        init_lr_distance=0.5 if r.norm == "l1" else 0.1,
        α=0.9 if passes > 100 else 0.5,
    )


def _ddn(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().ddn(r, r.x, r.y, r.targeted, steps=passes, levels=None)


def _pdgd(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().pdgd(r, r.x, r.y, r.targeted, num_steps=passes)


def _pdpgd(r: Recorder, passes: int, operator: float | None = None) -> Tensor:
    return _adv_lib().pdpgd(
        r,
        r.x,
        r.y,
        ORDER[r.norm],
        r.targeted,
        num_steps=passes,
        proximal_operator=operator,
    )


def _fab(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().fab(r, r.x, r.y, ORDER[r.norm], n_iter=passes)


def _fab_targeted(r: Recorder, passes: int) -> Tensor:
    """Two forwards and a backward per iteration, and one forward per target."""
    targets = min(9, max(2, passes // 33))
    iterations = ((passes - 1) // targets - 1) // 2
    return _adv_lib().fab(
        r,
        r.x,
        r.y,
        ORDER[r.norm],
        n_iter=iterations,
        restarts=targets,
        targeted_restarts=True,
    )


def _apgd(r: Recorder, passes: int, loss: str = "dlr", targets: int = 0) -> Tensor:
    """Search over epsilon: from twice the linear estimate, below the best so far.

    With targets the rounds go through the most likely classes in turn.
    """
    rounds = {30: 4, 100: 8, 300: 12}.get(passes, 8 if passes < 300 else 18)
    if targets:
        targets = min(targets, max(2, passes // 33))
        rounds = targets * max(1, rounds // targets + (passes > 30))
    bounds = (1e-4, {"l1": 1e3, "l2": 40.0, "linf": 1.0}[r.norm])
    ranked, estimate = _rank_classes(r)
    failed = r.x.new_zeros(max(targets, 1), len(r.x))
    epsilon = (2 * estimate).clamp(*bounds)
    for t in range(rounds):
        place = t % max(targets, 1)
        left = passes - int(torch.maximum(r.forwards, r.backwards).max())
        steps = left // (rounds - t) - (3 if r.norm == "l1" else 1)
        if steps < 1:
            break
        best = r.distance.float()
        if t:
            low = torch.minimum(failed[place], 0.9 * best)
            middle = torch.maximum((low + best) / 2, 0.7 * best)
            epsilon = torch.where(best.isinf(), 2 * epsilon, middle).clamp(*bounds)
        labels = ranked[:, place] if targets else r.y
        points = _adv_lib().apgd(
            r,
            r.x,
            labels,
            epsilon,
            ORDER[r.norm],
            targeted=r.targeted or bool(targets),
            n_iter=steps,
            loss_function=loss,
            use_large_reps=r.norm == "l1",
        )
        missed = ~(r.distance.float() < best)
        failed[place] = torch.where(missed, epsilon, failed[place])
    return points


def _rank_classes(r: Recorder) -> tuple[Tensor, Tensor]:
    """Classes but the label, likeliest first; the linear estimate of the distance."""
    x = r.x.clone().requires_grad_()
    logits = r(x)
    ranked = logits.scatter(1, r.y[:, None], -float("inf")).argsort(1, descending=True)
    margin = (logits.gather(1, r.y[:, None]) - logits.gather(1, ranked[:, :1])).abs()
    slopes = torch.autograd.grad(margin.sum(), x)[0].flatten(1)
    dual = {"l1": float("inf"), "l2": 2.0, "linf": 1.0}[r.norm]
    return ranked, margin.detach()[:, 0] / slopes.norm(p=dual, dim=1).clamp(min=1e-12)


def _tr(r: Recorder, passes: int) -> Tensor:
    """Its adaptive radius stays too small to arrive within few passes."""
    adaptive = passes > 100
    largest = {"l2": 0.5, "linf": 0.02}[r.norm] / (10 if adaptive else 1)
    x, p = r.x.clone(), ORDER[r.norm]
    return _adv_lib().tr(r, x, r.y, iter=passes, adaptive=adaptive, p=p, eps=largest)


def _sigma_zero(r: Recorder, passes: int, threshold: float = 0.3) -> Tensor:
    return _adv_lib().sigma_zero(
        r, r.x, r.y, num_steps=passes, τ_0=threshold, targeted=r.targeted
    )


def _vfga(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().vfga(r, r.x, r.y, targeted=r.targeted)


def _deepfool(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().df(r, r.x, r.y, steps=passes, norm=ORDER[r.norm])


def _superdeepfool(r: Recorder, passes: int) -> Tensor:
    return _adv_lib().sdf(r, r.x, r.y)


def _foolbox(r: Recorder, attack: Any, **more: Any) -> Tensor:
    import foolbox

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(r, bounds=(0, 1), device=r.x.device)
        criteria = foolbox.criteria
        aimed = (
            criteria.TargetedMisclassification
            if r.targeted
            else criteria.Misclassification
        )
        return attack.run(model, r.x, aimed(r.y), **more)


def _foolbox_fmn(r: Recorder, passes: int) -> Tensor:
    from foolbox.attacks import fast_minimum_norm as fmn

    name = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "LInf"}[r.norm]
    attack = getattr(fmn, f"{name}FMNAttack")
    first = 10.0 if r.norm == "linf" else 1.0
    return _foolbox(r, attack(steps=passes, max_stepsize=first))


def _foolbox_ead(r: Recorder, passes: int) -> Tensor:
    from foolbox.attacks import EADAttack

    searches = {30: 2, 100: 4}.get(passes, 9)
    return _foolbox(
        r,
        EADAttack(
            binary_search_steps=searches,
            steps=passes // searches,
            initial_const=10.0 if searches < 9 else 1e-1,
            decision_rule="L1",
        ),
    )


def _foolbox_brendel_bethge(r: Recorder, passes: int) -> Tensor:
    """From the nearest image of another label, which costs no pass to find.

    Its trust radius grows with the batch, so the rate is divided by the batch size.
    """
    from foolbox.attacks import brendel_bethge as bb

    name = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "Linfinity"}[r.norm]
    apart = torch.stack([distance(r.x, x.expand_as(r.x), r.norm) for x in r.x])
    apart[r.y[:, None] == r.y] = float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = getattr(bb, f"{name}BrendelBethgeAttack")(
            steps=max(passes - 12, 1), lr=1e-3 / len(r.x)
        )
    return _foolbox(r, attack, starting_points=r.x[apart.argmin(dim=1)])


ALL, SMOOTH = ("linf", "l2", "l1", "l0"), ("linf", "l2", "l1")

PEERS: dict[str, Peer] = {
    "advlib-fmn": Peer("adv-lib", ALL, _fmn),
    "advlib-pdpgd": Peer("adv-lib", ALL, _pdpgd),
    "advlib-pdpgd-2/3": Peer("adv-lib", ("l0",), partial(_pdpgd, operator=23)),
    "advlib-sigma-zero": Peer("adv-lib", ("l0",), _sigma_zero),
    "advlib-sigma-zero-0.1": Peer(
        "adv-lib", ("l0",), partial(_sigma_zero, threshold=0.1)
    ),
    "advlib-alma": Peer("adv-lib", ("l2", "l1"), _alma),
    "advlib-pdgd": Peer("adv-lib", ("l2",), _pdgd),
    "advlib-ddn": Peer("adv-lib", ("l2",), _ddn),
    "advlib-apgd": Peer("adv-lib", SMOOTH, _apgd, aims=False),
    "advlib-apgd-ce": Peer("adv-lib", SMOOTH, partial(_apgd, loss="ce")),
    "advlib-apgd-targeted": Peer(
        "adv-lib", SMOOTH, partial(_apgd, targets=9), aims=False
    ),
    "advlib-fab": Peer("adv-lib", SMOOTH, _fab, aims=False),
    "advlib-fab-targeted": Peer("adv-lib", SMOOTH, _fab_targeted, aims=False),
    "advlib-tr": Peer("adv-lib", ("linf", "l2"), _tr, in_order=False, aims=False),
    "advlib-deepfool": Peer(
        "adv-lib", ("linf", "l2"), _deepfool, in_order=False, aims=False
    ),
    "advlib-superdeepfool": Peer(
        "adv-lib", ("l2",), _superdeepfool, in_order=False, aims=False
    ),
    "advlib-vfga": Peer("adv-lib", ("l0",), _vfga, in_order=False),
    "foolbox-fmn": Peer("foolbox", ALL, _foolbox_fmn),
    "foolbox-ead": Peer("foolbox", ("l1",), _foolbox_ead),
    "foolbox-brendel-bethge": Peer(
        "foolbox", ALL, _foolbox_brendel_bethge, slow=True, aims=False
    ),
}
"""Attacks of other libraries by name."""


def run_peer(
    peer: Peer,
    model: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    passes: int,
    *,
    targeted: bool = False,
) -> Recorder:
    """What a peer found within so many passes.

    Peers draw from torch's global generators, so those are seeded here and put back.
    """
    recorder = Recorder(
        model, x, y, norm, passes, in_order=peer.in_order, targeted=targeted
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        torch.cuda.manual_seed_all(0)
        with contextlib.suppress(Spent):
            recorder.offer(peer.run(recorder, passes))
    return recorder
