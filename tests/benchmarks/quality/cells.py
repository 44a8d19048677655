"""What the peers found for each network and norm: run once, then kept in files."""

import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from data import least_likely, network
from peers import PEERS, run_peer
from recorder import distance, is_adversarial
from torch import Tensor, nn

CACHE = Path(__file__).resolve().parent / ".cache"
"""Ignored by git. Delete a cell's file after changing how a peer is run."""

REFERENCE_PASSES = 1000
"""Peers' runs of at most so many passes make the reference."""


@dataclass(frozen=True)
class Task:
    """One peer to be run on one network and norm with so many passes.

    Attributes:
        data: Folder of the networks.
        network: Its name.
        norm: Its name.
        images: How many at most.
        peer: Its name.
        passes: Per sample.
        targeted: Whether at the least likely classes.
        device: Where it is run.
    """

    data: Path
    network: str
    norm: str
    images: int
    peer: str
    passes: int
    targeted: bool = False
    device: str = "cpu"

    @property
    def key(self) -> str:
        """What its result is kept under."""
        return f"{self.peer}@{self.passes}@{PEERS[self.peer].version}"


@dataclass(frozen=True)
class Result:
    """What a task found.

    Attributes:
        task: The task.
        distance: (n,) float64, verified; infinite where nothing was found.
        point: (n, ...) float32, where.
        seconds: How long it took.
    """

    task: Task
    distance: np.ndarray
    point: np.ndarray
    seconds: float


@dataclass
class Cell:
    """What the peers found for one network and norm, kept in one file.

    Attributes:
        path: Of the file.
        found: (n,) distances by `Task.key`.
        seconds: By `Task.key`.
        best: (n,) the least distance any peer found.
        best_point: (n, ...) where.
    """

    path: Path
    found: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    best: np.ndarray = field(default_factory=lambda: np.empty(0))
    best_point: np.ndarray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def read(cls, network: str, norm: str, images: int, *, targeted: bool) -> "Cell":
        """The cell with what its file holds, if there is one."""
        kind = "_targeted" if targeted else ""
        cell = cls(CACHE / f"{network}_{norm}_{images}{kind}.npz")
        if cell.path.exists():
            with np.load(cell.path, allow_pickle=False) as kept:
                cell.best, cell.best_point = kept["best"], kept["best_point"]
                for name in kept.files:
                    kind, _, key = name.partition(" ")
                    if kind == "found":
                        cell.found[key] = kept[name]
                    elif kind == "seconds":
                        cell.seconds[key] = float(kept[name])
        return cell

    def add(self, result: Result) -> None:
        """Put in what one peer found, and write the file anew."""
        self.found[result.task.key] = result.distance
        self.seconds[result.task.key] = result.seconds
        if not len(self.best):
            self.best = np.full(len(result.distance), np.inf)
            self.best_point = result.point.copy()
        better = result.distance < self.best
        self.best[better] = result.distance[better]
        self.best_point[better] = result.point[better]
        self.path.parent.mkdir(exist_ok=True)
        whole = self.path.with_suffix(".new.npz")
        np.savez_compressed(
            whole,
            best=self.best,
            best_point=self.best_point,
            **{f"found {key}": values for key, values in self.found.items()},
            **{f"seconds {key}": np.array(s) for key, s in self.seconds.items()},
        )
        whole.rename(self.path)

    def at(self, passes: int) -> dict[str, np.ndarray]:
        """(n,) distances by peer after so many passes."""
        named = ((key.split("@"), values) for key, values in self.found.items())
        return {peer: v for (peer, budget, _), v in named if int(budget) == passes}

    def reference(self) -> np.ndarray:
        """(n,) the least distance any peer found with any allowed number of passes."""
        allowed = [
            values
            for key, values in self.found.items()
            if int(key.split("@")[1]) <= REFERENCE_PASSES
        ]
        return np.min(allowed, axis=0)


def fill(tasks: Iterable[Task], workers: int) -> None:
    """Run the tasks that are not in the cache yet; what fails is said and left out."""
    cells: dict[tuple[str, str], Cell] = {}
    missing = []
    for task in tasks:
        place = (task.network, task.norm)
        if place not in cells:
            cells[place] = Cell.read(*place, task.images, targeted=task.targeted)
        if task.key not in cells[place].found:
            missing.append(task)
    if not missing:
        return
    print(f"{len(missing)} runs of peers are not in the cache yet", flush=True)
    with multiprocessing.get_context("spawn").Pool(min(workers, len(missing))) as pool:
        for number, result in enumerate(pool.imap_unordered(_work, missing), 1):
            if isinstance(result, Result):
                task = result.task
                cells[task.network, task.norm].add(result)
                words = f"{task.network} {task.norm} {task.key}: {result.seconds:.1f} s"
            else:
                words = result
            print(f"  {number}/{len(missing)} {words}", flush=True)


@torch.no_grad()
def verify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    point: Tensor,
    norm: str,
    *,
    targeted: bool = False,
) -> np.ndarray:
    """(n,) distances of points, infinite where one is no adversarial in the box."""
    inside = (point >= 0).flatten(1).all(1) & (point <= 1).flatten(1).all(1)
    far = distance(point, x, norm)
    far[~(inside & is_adversarial(model(point), y, targeted=targeted))] = float("inf")
    return far.cpu().numpy()


def _work(task: Task) -> Result | str:
    """Run a task; where the peer fails, what went wrong in words."""
    torch.set_num_threads(1)
    # Some peers slow down tenfold on numbers too small to matter.
    torch.set_flush_denormal(True)
    # As exact there as on the processor.
    torch.backends.cudnn.allow_tf32 = False
    model, x, y = network(task.data, task.network, task.images)
    if task.targeted:
        y = least_likely(task.data, task.network, task.images)
    model, x, y = (part.to(task.device) for part in (model, x, y))
    start = time.perf_counter()
    try:
        recorder = run_peer(
            PEERS[task.peer],
            model,
            x,
            y,
            task.norm,
            task.passes,
            targeted=task.targeted,
        )
    # Whatever a peer raises is its own failure, and the others go on.
    except Exception as error:
        return f"FAILED {task.key} on {task.network} {task.norm}: {error!r}"
    seconds = time.perf_counter() - start
    found = verify(model, x, y, recorder.point, task.norm, targeted=task.targeted)
    return Result(task, found, recorder.point.cpu().numpy(), seconds)
