"""How near ours and other libraries' attacks come: `python tests/benchmarks/quality`.

Distances are divided, sample by sample, by the reference: the least that any peer found
with any number of passes up to 1,000. A pass is one forward with or without its
backward; peers are counted and verified by one wrapper around the network (see
`recorder.py`), and their results are kept in `.cache`, since they take hours, or with
`--device cuda` minutes. Ours always run anew.

With `--targeted` the class that the network thinks the least likely is to be reached,
beside the peers that can be aimed at one.

found: the share of samples with an adversarial. mean, median: of the ratios, where ours
(or the peer) and the reference have one. within 1 %: the share of samples at most 1 %
above the best known, ours of this run included (`--further` makes more of them). time:
over that of as many bare passes, both in this batch. peer: the best single one at as
many passes, by its mean ratio, in which no ratio is above 10 and a sample not found
counts as 10. The curves below each table are such means over the networks, of the peers
that are the best at some number of passes, or nearly; in brackets the worst network and
the share found.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cells import Cell, Task, fill
from data import DATA, networks
from ours import Ours, has_exact, minimises, over_exact, run_ours
from peers import ALL, PEERS

_WORST = 10.0
# Of the best mean, what a peer may stand at to be shown.
_NEARLY = 1.05


def main() -> None:
    """Read the options, run what is missing, print the tables."""
    options = _options()
    data, passes = options.data, options.passes
    nets = options.network or list(networks(data))
    if not options.cached:
        fill(_tasks(options, nets), options.workers)
    for norm in options.norm:
        attacks = [name for name in options.attacks if minimises(name, norm)]
        _print_norm(options, norm, nets, attacks)
        _print_peers(options, norm, nets)
        for name in attacks if options.exact else ():
            _print_exact(data, name, norm, passes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--norm", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--passes", nargs="+", type=int, default=[30, 100, 300, 1000])
    parser.add_argument("--attacks", nargs="*", default=["auto"], help="ours, by name")
    parser.add_argument("--network", nargs="+", help="names in models.json")
    parser.add_argument(
        "--further", type=int, nargs="*", default=[], help="passes that tell best known"
    )
    parser.add_argument("--images", type=int, default=64, help="per network")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=list(PEERS),
        default=[name for name, peer in PEERS.items() if not peer.slow],
    )
    parser.add_argument(
        "--cached", action="store_true", help="run no peer, take what the cache has"
    )
    parser.add_argument(
        "--targeted", action="store_true", help="at the least likely class of each"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes for peers")
    parser.add_argument("--device", default="cpu", help="of torch, for peers")
    parser.add_argument("--exact", action="store_true", help="also where it is known")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


def _tasks(options: argparse.Namespace, nets: Sequence[str]) -> list[Task]:
    return [
        Task(
            options.data,
            net,
            norm,
            options.images,
            name,
            passes,
            options.targeted,
            options.device,
        )
        for passes in options.passes
        for norm in options.norm
        for name in options.peers
        for net in nets
        if norm in PEERS[name].norms and (PEERS[name].aims or not options.targeted)
    ]


def _print_norm(
    options: argparse.Namespace, norm: str, nets: Sequence[str], attacks: Sequence[str]
) -> None:
    """Run ours on every network and print them beside the best peer."""
    print(f"\n{norm}: distance over the reference")
    print(
        f"{'network':21} {'passes':>6}  {'attack':14} found    mean  median "
        f"within 1 %   time  {'peer':22} found    mean  median"
    )
    images = options.images
    rows: dict[tuple[str, int], list[list[float]]] = {}
    for net in nets:
        cell = Cell.read(net, norm, images, targeted=options.targeted)
        if not cell.found:
            print(f"{net:21} no peer was ever run here; leave out --cached")
            continue
        ours = {
            (name, budget): run_ours(
                options.data,
                name,
                net,
                norm,
                budget,
                images,
                targeted=options.targeted,
            )
            for name in attacks
            for budget in (*options.passes, *options.further)
        }
        reference = cell.reference()
        everyone = [reference, *(found.distance for found in ours.values())]
        best_known = np.min(everyone, axis=0)
        for (name, budget), found in ours.items():
            if budget in options.further:
                continue
            values = _row(found, reference, best_known)
            rows.setdefault((name, budget), []).append(values)
            peer = _best_peer(cell.at(budget), reference)
            print(f"{net:21} {_words(name, budget, values)}  {peer}", flush=True)
    for (name, budget), many in rows.items():
        print(f"{'mean':21} {_words(name, budget, np.mean(many, axis=0))}")
        # More is better of what was found and what is within 1 %.
        low, high = np.min(many, axis=0), np.max(many, axis=0)
        worst = [low[0], high[1], high[2], low[3], high[4]]
        print(f"{'worst network':21} {_words(name, budget, worst)}")


def _row(found: Ours, reference: np.ndarray, best_known: np.ndarray) -> list[float]:
    share, mean, median = _summary(found.distance, reference)
    close = np.isfinite(found.distance) & (found.distance <= 1.01 * best_known)
    near = float(np.mean(close))
    return [share, mean, median, near, found.overhead]


def _words(name: str, budget: int, values: Sequence[float] | np.ndarray) -> str:
    share, mean, median, near, overhead = values
    return (
        f"{budget:6d}  {name:14} {share:5.0%} {mean:7.3f} {median:7.3f} "
        f"{near:10.0%} {overhead:6.2f}"
    )


def _best_peer(found: dict[str, np.ndarray], reference: np.ndarray) -> str:
    if not found:
        return "none at so many passes"

    def judge(name: str) -> float:
        return float(_capped(found[name], reference).mean())

    name = min(found, key=judge)
    share, mean, median = _summary(found[name], reference)
    return f"{name:22} {share:5.0%} {mean:7.3f} {median:7.3f}"


def _print_peers(options: argparse.Namespace, norm: str, nets: Sequence[str]) -> None:
    """Print how near the best peers come, over all networks."""
    passes, targeted = options.passes, options.targeted
    read = (Cell.read(net, norm, options.images, targeted=targeted) for net in nets)
    cells = [cell for cell in read if cell.found]
    # By peer, at each number of passes: the mean, the worst network, the share found.
    points = [_points(cells, budget) for budget in passes]
    least = [min((mean for mean, _, _ in p.values()), default=math.inf) for p in points]
    columns = list(zip(points, least, strict=True))
    good = {
        peer
        for point, best in columns
        for peer, (mean, _, _) in point.items()
        if mean <= _NEARLY * best
    }
    print("".join(f"{budget:>22}" for budget in ("", *passes)))
    unknown = (math.inf, math.inf, 0.0)
    for peer in sorted(good, key=lambda peer: points[-1].get(peer, unknown)):
        curve = (point.get(peer) for point in points)
        words = (f"{p[0]:.3f} ({p[1]:.3f}, {p[2]:.0%})" if p else "-" for p in curve)
        print(f"{peer:22}" + "".join(f"{word:>22}" for word in words), flush=True)


def _points(
    cells: Sequence[Cell], budget: int
) -> dict[str, tuple[float, float, float]]:
    """Of peers that ran everywhere: mean ratio, the worst network's, share found."""
    ran = [cell.at(budget) for cell in cells]
    points = {}
    for peer in set[str].intersection(*map(set, ran)) if ran else ():
        pairs = zip(ran, cells, strict=True)
        means = [_capped(some[peer], cell.reference()).mean() for some, cell in pairs]
        found = np.isfinite(np.concatenate([some[peer] for some in ran])).mean()
        points[peer] = float(np.mean(means)), float(max(means)), float(found)
    return points


def _capped(distance: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) ratios, none above the worst, which counts where nothing was found."""
    known = np.isfinite(distance)
    ratios = np.full(len(reference), _WORST)
    ratios[known] = np.minimum(distance[known] / reference[known], _WORST)
    return ratios


def _summary(distance: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """The share found, and the mean and median ratio where both are known."""
    found = np.isfinite(distance)
    known = found & np.isfinite(reference)
    ratios = distance[known] / reference[known] if known.any() else np.array([np.inf])
    return float(found.mean()), float(ratios.mean()), float(np.median(ratios))


def _print_exact(data: Path, name: str, norm: str, passes: Sequence[int]) -> None:
    """Print how near one of ours comes to minima that are known."""
    for net in has_exact(data, norm):
        for budget in passes:
            ratios = over_exact(data, name, net, norm, budget)
            share, _, median = _summary(ratios, np.ones(len(ratios)))
            print(
                f"exact {net:15} {budget:6d}  {name:14} {share:5.0%}  median "
                f"{median:.5f}  95 % {np.quantile(ratios, 0.95, method='higher'):.5f}  "
                f"least {ratios.min():.6f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
