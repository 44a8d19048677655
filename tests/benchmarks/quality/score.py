"""Queries to success, ours and other libraries': `python .../score.py`.

Attacks that see scores only, on the trained networks, each within the epsilon that is
customary for the network. One table per network and norm: the share of images that
stands after so many queries, the median number of queries over the images that at least
one peer breaks (what fails counts as infinite), and that over the best peer's. `auto`
is told the epsilon, as the peers are; where it is not, it looks for the nearest
adversarial, and succeeds with the first within it. log: the mean logarithm of the
queries (at most the budget) over the best peer's, as a factor; a median of few images
says little. With `--seeds` all of it is pooled over the seeds, and the spread of the
robust accuracy after all queries is told.

L0 has no epsilon: the median number of changed features after so many queries. The
original Sparse-RS is told how many it may change; what counts is the number that was
best for half of the images, known in hindsight, to its advantage.

Peers: the original Square (pyautoattack) and those of torchattacks and ART; for L0
foolbox's Pointwise, which sees decisions only, and the original Sparse-RS. The
original ones and torchattacks' are run with all images at once, the number of queries
of each image being theirs, and what they return is verified; the others one image at a
time, every input they show to the network being a query. Of packages only:
`pip install --no-deps -r tests/peers/requirements.txt`, and for ART's
`pip install --no-deps adversarial-robustness-toolbox`. The original Sparse-RS is no
package: `--sparse-rs FOLDER` names a checkout of github.com/fra31/sparse-rs.

`--network efficientnet-lite0 --images 4` needs packages of its own, see `data.py`.
"""

import argparse
import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import DATA, EFFICIENTNET, network
from decisions import Curve, after, art, peer_curves
from recorder import Spent, distance, is_adversarial
from torch import Tensor, nn

from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.attacks.score.square import Square
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification
from robustkit.engine.ledger import Ledger
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto
from robustkit.registry import get_attack

# The sizes at which these networks are customarily tested or were trained.
EPSILON = {
    "mnist_cnn_a_adv": {"linf": 0.3, "l2": 2.0, "l1": 10.0},
    "mnist_conv_small_nat": {"linf": 0.12, "l2": 1.5, "l1": 10.0},
    "cifar_cnn_a_adv": {"linf": 8 / 255, "l2": 0.5, "l1": 12.0},
    "cifar_conv_small_pgd": {"linf": 8 / 255, "l2": 0.5, "l1": 12.0},
    EFFICIENTNET: {"linf": 4 / 255, "l2": 3.0, "l1": 255.0},
}
# As many as the original Sparse-RS is told in turn.
_FEATURES = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 90, 128, 181, 256)
NAME = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def main() -> None:
    """Run all of it and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--norm", nargs="+", default=["linf", "l2", "l1", "l0"])
    trained = [net for net in EPSILON if net != EFFICIENTNET]
    parser.add_argument("--network", nargs="+", default=trained)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--peers", nargs="*", default=list(_PEERS), choices=list(_PEERS)
    )
    parser.add_argument("--sparse-rs", type=Path, help="a checkout of the original")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for norm in options.norm:
        for net in options.network:
            model, x, y = network(options.data, net, options.images)
            table = _sparse if norm == "l0" else _within
            table(options, norm, net, model, x, y)


def _within(
    options: argparse.Namespace,
    norm: str,
    net: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
) -> None:
    epsilon, budget = EPSILON[net][norm], options.queries
    counts = [q for q in (10, 30, 100, 300, 1000, 3000, 10_000) if q <= budget]
    print(f"\n{norm} {net}, epsilon {epsilon:.4g}, {len(x)} images")
    heads = "".join(f"{q:>8}" for q in counts)
    print(f"{'':22}{heads}   median  over best    log over best   spread")
    images = (model, x, y, norm)

    def ours(attack: Attack[Any]) -> Callable[[int], np.ndarray]:
        return lambda seed: _ours(attack, *images, budget, seed).within(epsilon)

    def theirs(name: str) -> Callable[[int], np.ndarray]:
        return lambda seed: _PEERS[name](*images, epsilon, budget, seed)

    peers = {name: theirs(name) for name in options.peers}
    if norm == "l1":
        peers = {name: run for name, run in peers.items() if name == "original square"}
    attacks = {
        "ours: square": ours(Square(epsilon, steps=budget, rescale=False)),
        "  rescaled": ours(Square(epsilon, steps=budget, rescale=True)),
        "ours: auto": ours(auto(norm, budget, Access.SCORE, epsilon)),
        "  not told": ours(auto(norm, budget, Access.SCORE)),
    }
    seeds = range(options.seeds)
    needed = {
        name: np.stack([attack(seed) for seed in seeds])
        for name, attack in (peers | attacks).items()
    }
    broken = np.zeros(len(x), dtype=bool)
    for name in peers:
        broken |= np.isfinite(needed[name]).any(axis=0)
    middle = {
        name: float(np.median(queries[:, broken])) if broken.any() else np.nan
        for name, queries in needed.items()
    }
    mean = {
        name: np.log(queries[:, broken].clip(max=budget)).mean()
        if broken.any()
        else np.nan
        for name, queries in needed.items()
    }
    best, least = (
        min((known[name] for name in peers), default=np.nan) for known in (middle, mean)
    )
    for name, queries in needed.items():
        stands = "".join(f"{(queries > q).mean():8.1%}" for q in counts)
        spread = np.isinf(queries).mean(axis=1).std(ddof=min(len(seeds) - 1, 1))
        print(
            f"{name:22}{stands}{middle[name]:9.1f}{middle[name] / best:11.2f}"
            f"{np.exp(mean[name] - least):17.2f}{spread:9.1%}"
        )
    print(f"  medians over {broken.mean():.1%} of the images", flush=True)


def _sparse(
    options: argparse.Namespace,
    norm: str,
    net: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
) -> None:
    counts = [q for q in (100, 300, 1000, 3000, 10_000) if q <= options.queries]
    counts = counts or [options.queries]
    print(f"\n{norm} {net}, {len(x)} images, median number of features after queries")
    print(f"{'':22}" + "".join(f"{q:>8}" for q in counts))

    def line(name: str, medians: list[float]) -> None:
        print(f"{name:22}" + "".join(f"{m:8.1f}" for m in medians), flush=True)

    pointwise = peer_curves("foolbox-pointwise", norm, net, (model, x, y), counts[-1])
    if pointwise is not None:
        line("foolbox pointwise", [np.median(after(pointwise, q)) for q in counts])
    told: dict[str, Callable[[int, int], np.ndarray]] = {
        "ours: sparse-rs, told": lambda features, queries: _ours(
            SparseRS(features, steps=queries), model, x, y, norm, queries, 0
        ).ledger.distance_after(queries)
    }
    if options.sparse_rs is not None:
        attack = _sparse_rs(options.sparse_rs)
        told["original sparse-rs"] = lambda features, queries: _original_sparse_rs(
            attack, model, x, y, features, queries
        )
    for name, within in told.items():
        line(name, [_in_hindsight(within, q) for q in counts])
    attacks: dict[str, Attack[Any]] = {
        "ours: pointwise": get_attack("pointwise"),
        "ours: sparse-rs": get_attack("sparse-rs"),
        "ours: auto": auto(norm, options.queries, Access.SCORE),
    }
    for name, attack in attacks.items():
        medians = []
        for q in counts:
            ran = _ours(attack.within(q), model, x, y, norm, q, 0)
            medians.append(np.median(ran.ledger.distance_after(q)))
        line(name, medians)


def _in_hindsight(within: Callable[[int, int], np.ndarray], queries: int) -> float:
    """The least median distance over the numbers of features that may be changed."""
    medians = []
    for features in _FEATURES:
        sizes = within(features, queries)
        medians.append(float(np.median(sizes)))
        if np.isfinite(sizes).mean() > 0.9:
            break
    return min(medians)


class _Ran:
    """One of our attacks, run."""

    def __init__(self, ledger: Ledger, budget: int) -> None:
        self.ledger, self._budget = ledger, budget

    def within(self, epsilon: float) -> np.ndarray:
        """(n,) after how many queries an adversarial within epsilon was known."""
        needed = np.full(len(self.ledger.forwards), np.inf)
        for count in range(self._budget, 0, -1):
            near = self.ledger.distance_after(count) <= epsilon * (1 + 1e-5)
            if not near.any():
                break
            needed[near] = count
        return needed


def _ours(
    attack: Attack[Any],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    budget: int,
    seed: int,
) -> _Ran:
    criterion = Misclassification(as_tensor(y))
    adapted = TorchModel(model)
    problem = Problem(adapted, as_tensor(x), criterion, get_norm(norm), seed=seed)
    return _Ran(run(attack, problem, budget=budget), budget)


def _original(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    epsilon: float,
    budget: int,
    seed: int,
) -> np.ndarray:
    attack = _peer("pyautoattack.square").SquareAttack(
        model,
        norm=NAME[norm],
        n_queries=budget - 1,
        eps=epsilon,
        device="cpu",
        resc_schedule=False,
    )
    return _asked(attack, model, x, y, norm, epsilon, seed)


def _lent(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    epsilon: float,
    budget: int,
    seed: int,
) -> np.ndarray:
    attack = _peer("torchattacks").Square(
        model, norm=NAME[norm], eps=epsilon, n_queries=budget - 1
    )
    return _asked(attack, model, x, y, norm, epsilon, seed)


def _one_by_one(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    epsilon: float,
    budget: int,
    seed: int,
) -> np.ndarray:
    needed = np.full(len(x), np.inf)
    attack = art("SquareAttack", eps=epsilon, max_iter=budget)
    for row in range(len(x)):
        one, label = x[row : row + 1], y[row : row + 1]
        curve = Curve(model, one, label, norm, budget)
        np.random.seed(1000 * seed + row)  # noqa: TID251, NPY002 (as it draws)
        with warnings.catch_warnings(), contextlib.suppress(Spent):
            warnings.simplefilter("ignore")
            attack(curve, None)
        within = [q for q, size in curve.steps if size <= epsilon * (1 + 1e-4)]
        needed[row] = min(within, default=np.inf)
    return needed


_PEERS: dict[str, Callable[..., np.ndarray]] = {
    "original square": _original,
    "torchattacks square": _lent,
    "ART square": _one_by_one,
}


def _asked(
    attack: Any,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    epsilon: float,
    seed: int,
) -> np.ndarray:
    """(n,) queries of each image that was broken, verified; else infinite."""
    attack.init_hyperparam(x)
    torch.manual_seed(seed)  # noqa: TID251 (the peers know no other way)
    queries, points = attack.attack_single_run(x, y)
    near = distance(points, x, norm) <= epsilon * (1 + 1e-4)
    broken = is_adversarial(model(points), y) & near
    return torch.where(broken, queries, torch.inf).double().numpy()


def _original_sparse_rs(
    attack: Any, model: nn.Module, x: Tensor, y: Tensor, features: int, queries: int
) -> np.ndarray:
    """(n,) distances of what the original finds; infinite where it finds nothing."""
    # Its units are pixels, so every feature is made one.
    rows = x.reshape(len(x), 1, x.shape[2], -1)

    def asked(z: Tensor) -> Tensor:
        return model(z.reshape(-1, *x.shape[1:]))

    settings = {"p_init": 0.3, "verbose": False, "device": "cpu"}
    made = attack(asked, "L0", n_queries=queries, eps=features, **settings)
    _, points = made.perturb(rows, y)
    sizes = distance(points, rows, "l0")
    broken = is_adversarial(asked(points), y) & (sizes <= features)
    return torch.where(broken, sizes, torch.inf).numpy()


def _sparse_rs(folder: Path) -> Any:
    """The original's class, out of a checkout of its repository."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("rs_attacks").RSAttack
    finally:
        sys.path.remove(str(folder))
        # Its name is too common to be left lying about.
        sys.modules.pop("utils", None)


def _peer(name: str) -> Any:
    """A peer, imported as the comparisons in tests/peers do."""
    if "peers_conftest" not in sys.modules:
        path = Path(__file__).resolve().parents[2] / "peers" / "conftest.py"
        spec = importlib.util.spec_from_file_location("peers_conftest", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["peers_conftest"] = module
    return sys.modules["peers_conftest"].import_peer(name)


if __name__ == "__main__":
    main()
