"""Distance against queries, ours and other libraries': `python .../decisions.py`.

Attacks that see decisions only, on the trained networks. Every input that an attack
shows to the network is one query, and the nearest adversarial of the first q queries
counts, whatever the attack returns (`Curve`). Peers are run one sample at a time, so
that no query is spent on a sample that waits for others; this is also where they do
best. Their results are kept in `.cache/decisions`; ours always run anew.

With `--pool` everyone is given other images, none of them under attack: ours as a pool,
with their labels, peers as a starting point the nearest that is of another class to the
network (found without queries, to their advantage). With `--targeted`, the class that
the network thinks the least likely is to be reached, always from such images, without
which nobody gets there.

For EfficientNet-Lite0 see `data.py`: `--network efficientnet-lite0 --images 4 --queries
1000 --peer-queries 1000`. It has no pool.

white-box: our gradient-based default with 300 passes. area: under the median distance
against the logarithm of queries, from 100 to the peers' most, over the best peer's.
time: ours as a whole over what the network alone takes for as many inputs in batches of
as many samples.

foolbox is needed, and for ART's `pip install --no-deps adversarial-robustness-toolbox`.
"""

import argparse
import contextlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import DATA, EFFICIENTNET, least_likely, network
from recorder import Spent, distance, is_adversarial
from torch import Tensor, nn

import robustkit as rk
from robustkit.numerics.tensors import as_tensor
from robustkit.registry import choose_attacks

_Attack = Callable[["Curve", Tensor | None], None]

CACHE = Path(__file__).resolve().parent / ".cache" / "decisions"
NETWORKS = (
    "mnist_cnn_a_adv",
    "mnist_conv_small_nat",
    "cifar_cnn_a_adv",
    "cifar_conv_small_pgd",
)
QUERIES = (100, 250, 500, 1000, 2000, 5000, 10_000)
_POOL = 100
# Numbers of queries, evenly apart in the logarithm, that an area is made of.
_BETWEEN = 40


class Curve(nn.Module):
    """A network that notes the nearest adversarial of each number of queries.

    Args:
        model: Takes (n, ...) in [0, 1], gives logits.
        x: (1, ...) the original.
        y: (1,) its label.
        norm: By name.
        budget: Queries; the next ends the attack by `Spent`.
        targeted: Whether the label is a target.

    Attributes:
        steps: Of every improvement: after how many queries, and the distance.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: str,
        budget: int,
        *,
        targeted: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.x, self.y, self.norm, self.budget = model, x, y, norm, budget
        self.targeted = targeted
        self.queries = 0
        self.steps: list[tuple[int, float]] = []
        self.eval()

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        if self.queries >= self.budget:
            raise Spent
        z = z.reshape(-1, *self.x.shape[1:]).float()
        logits: Tensor = self.model(z)
        inside = ((z >= -1e-6) & (z <= 1 + 1e-6)).flatten(1).all(dim=1)
        labels = self.y.expand(len(z))
        wrong = is_adversarial(logits, labels, targeted=self.targeted) & inside
        for place in torch.nonzero(wrong).flatten().tolist():
            number = self.queries + place + 1
            size = float(distance(z[place : place + 1], self.x, self.norm))
            if number <= self.budget and (not self.steps or size < self.steps[-1][1]):
                self.steps.append((number, size))
        self.queries += len(z)
        return logits


def main() -> None:
    """Run what is missing and print one table per network and norm."""
    options = _options()
    for norm in options.norm:
        for net in options.network:
            if not options.targeted:
                _table(options, norm, net, pool=False)
            if (options.pool or options.targeted) and net != EFFICIENTNET:
                _table(options, norm, net, pool=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--norm", nargs="+", default=["l2", "linf"], choices=["l2", "linf", "l1", "l0"]
    )
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    parser.add_argument("--attacks", nargs="*", default=["auto"], help="ours, by name")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--peer-queries", type=int, default=5000)
    parser.add_argument("--pool", action="store_true", help="also with other images")
    parser.add_argument("--targeted", action="store_true", help="with other images")
    parser.add_argument("--cached", action="store_true", help="run no peer")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


def _table(options: argparse.Namespace, norm: str, net: str, pool: bool) -> None:
    model, x, y = network(options.data, net, options.images)
    others = _others(options, net, x) if pool else None
    if options.targeted:
        y = least_likely(options.data, net, options.images)
    asked = [q for q in QUERIES if q <= options.queries] or [options.queries]
    what = ", targeted" if options.targeted else ", with a pool" if pool else ""
    print(f"\n{norm} {net}, {len(x)} images{what}")
    print(f"{'median distance after':24}" + "".join(f"{q:>9}" for q in asked))
    best = np.full(len(asked), np.inf)
    most = min(options.peer_queries, asked[-1])
    between = np.geomspace(asked[0], most, _BETWEEN).round().astype(int).tolist()
    least_area = np.nan
    for name in options.peers:
        if norm not in PEERS[name].norms or options.targeted > PEERS[name].aims:
            continue
        found = peer_curves(
            name,
            norm,
            net,
            (model, x, y),
            options.peer_queries,
            others=None if others is None else others[0],
            targeted=options.targeted,
            cached=options.cached,
        )
        if found is None:
            continue
        medians = np.array([np.median(after(found, q)) for q in asked])
        medians[np.array(asked) > options.peer_queries] = np.nan
        best = np.fmin(best, medians)
        many = np.array([np.median(after(found, q)) for q in between])
        least_area = np.fmin(least_area, _area(between, many))
        _line(name, medians)
    for name in options.attacks:
        criterion = _criterion(y, targeted=options.targeted)
        both, seconds = _ours(
            name, norm, model, x, criterion, others, [*between, *asked]
        )
        many, curve = np.median(both[:_BETWEEN], axis=1), both[_BETWEEN:]
        _line(f"ours: {name}", np.median(curve, axis=1))
        known = np.where(np.isfinite(best), best, np.nan)
        _line("  over the best peer", np.median(curve, axis=1) / known)
        share = np.mean(np.isfinite(curve[-1]))
        bare, area = _bare(model, x, asked[-1]), _area(between, many)
        print(
            f"  found {share:.0%}, time {seconds / bare:.2f}, "
            f"area {area / least_area:.2f}"
        )
    criterion = _criterion(y, targeted=options.targeted)
    white = rk.run(rk.auto(norm), model, x, criterion, norm=norm)
    print(f"{'white-box':24}{np.median(white.distance):9.4f}", flush=True)


def _area(queries: list[int], medians: np.ndarray) -> float:
    return float(np.trapezoid(medians, np.log(queries)))


def _line(name: str, values: np.ndarray) -> None:
    print(f"{name:24}" + "".join(f"{value:9.4f}" for value in values), flush=True)


def _others(
    options: argparse.Namespace, net: str, x: Tensor
) -> tuple[Tensor, np.ndarray]:
    """The last images of the same data, and their labels; none is under attack."""
    import data

    kind = data.networks(options.data)[net]["dataset"]
    images, labels = (v[-_POOL:] for v in data.loader(options.data).images(kind))
    images = torch.tensor(images)
    known = (images[:, None] == x[None]).flatten(2).all(dim=2).any(dim=1)
    return images[~known], labels[~known.numpy()]


def _ours(
    name: str,
    norm: str,
    model: nn.Module,
    x: Tensor,
    criterion: rk.Criterion,
    pool: tuple[Tensor, np.ndarray] | None,
    asked: list[int],
) -> tuple[np.ndarray, float]:
    """Distances (queries, n), and the seconds taken."""
    from robustkit.engine.loop import run
    from robustkit.engine.problem import Problem
    from robustkit.models.base import Access
    from robustkit.models.torch import TorchModel
    from robustkit.numerics.norms import get_norm

    attacks = choose_attacks(name, get_norm(norm), Access.DECISION, asked[-1])
    problem = Problem(
        TorchModel(model),
        as_tensor(x),
        criterion,
        get_norm(norm),
        pool=None if pool is None else as_tensor(pool[0]),
        pool_classes=None if pool is None else pool[1],
    )
    start = time.perf_counter()
    (attack,) = attacks.values()
    ledger = run(attack, problem, budget=asked[-1])
    seconds = time.perf_counter() - start
    return np.stack([ledger.distance_after(q) for q in asked]), seconds


@torch.no_grad()
def _bare(model: nn.Module, x: Tensor, queries: int) -> float:
    """Seconds for so many inputs of each sample."""
    batches = 20
    start = time.perf_counter()
    for _ in range(batches):
        model(x)
    return (time.perf_counter() - start) / batches * queries


def peer_curves(
    name: str,
    norm: str,
    net: str,
    problem: tuple[nn.Module, Tensor, Tensor],
    queries: int,
    *,
    others: Tensor | None = None,
    targeted: bool = False,
    cached: bool = False,
) -> list[list[tuple[int, float]]] | None:
    """The curves of all samples (`Curve.steps`), from the cache where they are there.

    Args:
        name: Of `PEERS`.
        norm: By name.
        net: The network's name.
        problem: The network, images and labels.
        queries: For each image.
        others: Images to start from; None: a start of the peer's own.
        targeted: Whether the labels are targets.
        cached: Whether to run nothing.

    Returns:
        None where the peer is not installed, or nothing is in the cache.
    """
    model, x, y = problem
    pool = "-targeted" if targeted else "" if others is None else "-pool"
    kept = CACHE / f"{net}-{norm}-{name}{pool}-{queries}.json"
    curves = json.loads(kept.read_text()) if kept.exists() else []
    if len(curves) < len(x) and not cached:
        for row in range(len(curves), len(x)):
            one, label = x[row : row + 1], y[row : row + 1]
            curve = Curve(model, one, label, norm, queries, targeted=targeted)
            start = None if others is None else _start(curve, others)
            # What peers draw from.
            torch.manual_seed(row)  # noqa: TID251
            np.random.seed(row)  # noqa: TID251, NPY002
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    PEERS[name].attack(curve, start)
                except Spent:
                    pass
                except ImportError:
                    return None
                except Exception as error:
                    print(f"{name}, sample {row}: {error!r}")
            curves.append(curve.steps)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(curves))
    return curves[: len(x)] or None


@torch.no_grad()
def _start(curve: Curve, others: Tensor) -> Tensor:
    """(1, ...) the nearest of the others that is adversarial."""
    labels = curve.y.expand(len(others))
    wrong = others[is_adversarial(curve.model(others), labels, targeted=curve.targeted)]
    far = distance(wrong, curve.x.expand(len(wrong), *curve.x.shape[1:]), curve.norm)
    return wrong[far.argmin()][None]


def after(curves: list[list[tuple[int, float]]], queries: int) -> np.ndarray:
    """(n,) the distance after so many queries."""
    known = [[size for number, size in one if number <= queries] for one in curves]
    return np.array([min(sizes, default=np.inf) for sizes in known])


def _criterion(y: Tensor, *, targeted: bool) -> rk.Criterion:
    kind = rk.Targeted if targeted else rk.Misclassification
    return kind(as_tensor(y))


def _foolbox(name: str, **settings: Any) -> _Attack:
    def attack(curve: Curve, start: Tensor | None) -> None:
        import foolbox

        own = {"constraint": curve.norm} if name == "HopSkipJumpAttack" else {}
        guest = getattr(foolbox.attacks, name)(**settings, **own)
        model = foolbox.PyTorchModel(curve, bounds=(0, 1), device="cpu")
        more = {} if start is None else {"starting_points": start}
        kinds = foolbox.criteria
        kind = kinds.TargetedMisclassification if curve.targeted else None
        guest.run(model, curve.x, (kind or kinds.Misclassification)(curve.y), **more)

    return attack


def art(name: str, **settings: Any) -> _Attack:
    """An attack of ART's on one sample."""

    def attack(curve: Curve, start: Tensor | None) -> None:
        # GeoDA asks for what NumPy 2 no longer has.
        vars(np).setdefault("mat", np.asmatrix)
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        x = curve.x
        classes = curve.model(x).shape[1]
        guest = PyTorchClassifier(
            curve, None, tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0)
        )
        order = {"l2": 2, "linf": np.inf}[curve.norm]
        own: dict[str, Any] = {} if name == "SignOPTAttack" else {"norm": order}
        if "targeted" in getattr(evasion, name).attack_params:
            own["targeted"] = curve.targeted
        made = getattr(evasion, name)(guest, verbose=False, **settings, **own)
        CACHE.mkdir(parents=True, exist_ok=True)
        more = {}
        if start is not None and name != "GeoDA":
            place = "x_init" if name == "SignOPTAttack" else "x_adv_init"
            more = {place: start.numpy()}
        # GeoDA leaves a file of frequencies where it runs.
        with contextlib.chdir(CACHE):
            labels = np.eye(classes, dtype=np.float32)[curve.y.numpy()]
            made.generate(x.numpy(), y=labels, **more)

    return attack


@dataclass(frozen=True)
class Peer:
    """An attack of another library.

    Attributes:
        attack: Runs it on a curve's sample, from a start (1, ...) if there is one.
        norms: By name.
        aims: Whether it can be targeted.
    """

    attack: _Attack
    norms: tuple[str, ...] = ("l2", "linf")
    aims: bool = True


PEERS = {
    "foolbox-hopskipjump": Peer(_foolbox("HopSkipJumpAttack", steps=1000)),
    "foolbox-boundary": Peer(
        _foolbox("BoundaryAttack", steps=100_000, tensorboard=False), ("l2",)
    ),
    "foolbox-pointwise": Peer(_foolbox("PointwiseAttack"), ("l0", "l1")),
    "art-hopskipjump": Peer(art("HopSkipJump", max_iter=1000, init_size=100)),
    "art-geoda": Peer(art("GeoDA", max_iter=5000), aims=False),
    "art-sign-opt": Peer(
        art("SignOPTAttack", max_iter=1000, query_limit=5000), ("l2",)
    ),
}


if __name__ == "__main__":
    main()
