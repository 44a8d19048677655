"""Makes checks/ID.png beside this file: what each check sees, measured.

Every picture holds a sound model or attack (blue) against one with the symptom (red),
and is not drawn unless the check speaks up at the one and is silent at the other. All
are the demo network on its images, with something done to it.

    python docs/pictures/make_checks_pictures.py [--out FOLDER] [--samples N] [ID ...]
"""

import argparse
import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import robustkit as rk
from robustkit import demo
from robustkit.active_tests.warrant import warrant
from robustkit.checks.effort_checks import after_half, check_effort
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import SHARES, probe
from robustkit.checks.run_checks import check_run, sides
from robustkit.checks.trace_checks import check_traces
from robustkit.checks.transfer import ask_again, check_transfer
from robustkit.checks.trial_checks import check_trials
from robustkit.checks.trials import try_attack
from robustkit.numerics.random import seeded

OUT = Path(__file__).with_name("checks")
SOUND, SYMPTOM, QUIET = "#2b6cb0", "#c53030", "#8a8f98"
EPSILON = 0.1
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


class Changed(torch.nn.Module):
    """The demo network with something done to it: a function of it and inputs."""

    def __init__(self, change: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.network, self.change = demo.load_model("digits"), change
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From images (n, 1, 8, 8) to logits."""
        return self.change(self.network, x)


class Remembering(Changed):
    """Gives what it was asked before the same score for all classes."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.seen = torch.zeros(0, 64)

    def _answer(self, network: Any, x: torch.Tensor) -> torch.Tensor:
        flat = x.detach().flatten(1)
        known = (torch.cdist(flat, self.seen) < 0.5).any(dim=1)
        self.seen = torch.cat([self.seen, flat])
        return network(x) * ~known.unsqueeze(1)


@dataclasses.dataclass(frozen=True)
class Walk(rk.Attack[None]):
    """Goes down the gradient to `first` times the boundary's distance, then to `last`.

    At the very end it may go home.
    """

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    first: float = 2.5
    last: float = 1.0
    home: bool = False
    steps: int = 40

    def init(self, p: Any) -> None:
        return None

    def step(self, p: Any, s: None, t: int) -> None:
        a = p.gradient(p.x)
        reach = p.norm.to_boundary(a.margin, a.gradient)
        share = t / (self.steps - 1)
        size = reach * (self.first + share * (self.last - self.first))
        p.score(p.x - a.gradient.sign() * size.reshape((-1, 1, 1, 1)))
        if self.home and t == self.steps - 1:
            p.score(p.x)


def plain(network: Any, x: torch.Tensor) -> torch.Tensor:
    """The network as it is."""
    return network(x)


def jagged(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Its answers are those of the network, its gradients are none."""
    return network(x + 0.01 * torch.sin(2000 * x))


def rounded(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Behind four grey levels."""
    return network((4 * x).round() / 4)


def purified(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Goes up the margin before it answers, outside of the graph."""
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        top = network(z).topk(2, dim=1).values
        (slopes,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), z)
    return network(x + 0.06 * slopes.sign())


@dataclasses.dataclass(frozen=True)
class Given:
    """What every picture is made from.

    Attributes:
        x: (n, 1, 8, 8) images that the network classifies correctly.
        y: (n,) their classes.
    """

    x: np.ndarray
    y: np.ndarray

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Both."""
        return self.x, self.y

    def seen(self, change: Any, epsilon: float = EPSILON) -> Any:
        """The probe of a changed network."""
        model = change if isinstance(change, torch.nn.Module) else Changed(change)
        return probe(rk.TorchModel(model), self.x, self.y, epsilon)

    def run(self, change: Any, attacks: Any, **settings: Any) -> rk.Results:
        """An evaluation of a changed network."""
        chosen = {"epsilons": [0.02, 0.05, 0.1, 0.2]} | settings
        return rk.evaluate(Changed(change), self.data, attacks=attacks, **chosen)

    def tried(self, change: Any, **settings: Any) -> Any:
        """Trials of PGD on a changed network."""
        model = rk.TorchModel(Changed(change))
        return try_attack(model, self.x[:32], self.y[:32], EPSILON, **settings)


def told(id: str, symptom: Iterable[Any], sound: Iterable[Any]) -> None:
    """Refuse a picture of what the check does not say."""
    spoke, silent = ({finding.id for finding in found} for found in (symptom, sound))
    if id not in spoke or id in silent:
        raise AssertionError(f"{id}: found {spoke} where it should be, {silent} else")


def panels(count: int = 2, **settings: Any) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(6.6, 2.5))
    axes = figure.subplots(1, count, squeeze=False, **settings)[0]
    return figure, list(axes)


# Of the model


def along(axes: Axes, change: Any, given: Given, reach: float, title: str) -> None:
    """The margin on the way to another class, and what gradients say of it."""
    model, network = Changed(change), demo.load_model("digits")
    x, y = torch.from_numpy(given.x[:1]), int(given.y[0])

    def margin(net: Any, point: torch.Tensor) -> torch.Tensor:
        z = net(point)
        others = z.clone()
        others[:, y] = -torch.inf
        return z[:, y] - others.amax(dim=1)

    start = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(margin(network, start).sum(), start)
    way = -slopes.sign()
    lengths = np.linspace(0, reach, 600, dtype=np.float32)
    with torch.no_grad():
        values = [float(margin(model, x + t * way)) for t in lengths]
    colour = SOUND if change is plain else SYMPTOM
    axes.plot(lengths, values, color=colour, lw=1)
    width = reach / 14
    for t in np.linspace(0.08, 0.86, 5) * reach:
        point = (x + float(t) * way).requires_grad_()
        here = margin(model, point)
        height = float(here.detach())
        if here.grad_fn is None or not here.requires_grad:
            axes.plot([t], [height], "x", color="black", ms=6)
            continue
        (slope,) = torch.autograd.grad(here.sum(), point, allow_unused=True)
        if slope is None:
            axes.plot([t], [height], "x", color="black", ms=6)
            continue
        rise = float((slope * way).sum())
        ends = np.array([-width, width])
        axes.plot(t + ends, height + rise * ends, color="black", lw=2)
    low, high = min(values), max(values)
    if low < 0:
        axes.axhline(0, color=QUIET, lw=0.8)
    pad = 0.15 * (high - low)
    axes.set_ylim(low - pad, high + pad)
    axes.set(title=title, xlabel="change of every pixel", ylabel="margin")


def g1(given: Given) -> Figure:
    """No gradient at all."""

    def cut(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network(x.detach())

    told("G1", check_model(given.seen(cut)), check_model(given.seen(plain)))
    figure, (left, right) = panels(sharey=True)
    along(left, plain, given, 0.25, "sound: slopes (black) lead down")
    along(right, cut, given, 0.25, "detached: there are none")
    return figure


def g2(given: Given) -> Figure:
    """Flat."""
    told("G2", check_model(given.seen(rounded)), check_model(given.seen(plain)))
    figure, (left, right) = panels(sharey=True)
    along(left, plain, given, 0.25, "sound: slopes (black) lead down")
    along(right, rounded, given, 0.25, "rounded input: each step is flat")
    return figure


def g3(given: Given) -> Figure:
    """Misleading."""
    bad, good = given.seen(jagged), given.seen(plain)
    told("G3", check_model(bad), check_model(good))
    figure, (left, right) = panels()
    along(left, jagged, given, 0.008, "jagged: slopes (black) lead anywhere")
    for seen, colour, shift in ((good, SOUND, -0.12), (bad, SYMPTOM, 0.12)):
        for place in range(len(SHARES)):
            column = seen.ratio[:, place].clip(-1.5, 1.5)
            right.plot(
                np.full(len(column), place + shift), column, ".", color=colour, ms=4
            )
    right.axhline(1, color=QUIET, lw=0.8)
    right.axhline(0.4, color=QUIET, lw=0.8, ls=":")
    right.set_xticks(range(len(SHARES)), [f"{100 * s:g} %" for s in SHARES])
    right.set(title="change seen over change told", xlabel="step, of epsilon")
    return figure


def noisy(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Behind noise."""
    return network(x + 0.15 * torch.randn_like(x))


def margins(model: Any, given: Given, times: int) -> np.ndarray:
    """(times, n) margins of equal questions."""
    x, rows = torch.from_numpy(given.x), np.arange(len(given.x))
    values = []
    for _ in range(times):
        with torch.no_grad():
            z = model(x).numpy().copy()
        own = z[rows, given.y].copy()
        z[rows, given.y] = -np.inf
        values.append(own - z.max(axis=1))
    return np.array(values)


def r1(given: Given) -> Figure:
    """By chance."""
    told("R1", check_model(given.seen(noisy)), check_model(given.seen(plain)))
    figure, axes = panels(sharey=True)
    kinds = ((plain, SOUND, "sound: seven equal answers"),
             (noisy, SYMPTOM, "behind noise: seven different ones"))  # fmt: skip
    for axis, (change, colour, title) in zip(axes, kinds, strict=True):
        values = margins(Changed(change), given, 7)[:, :14]
        axis.plot(values.T, ".", color=colour, ms=5)
        axis.axhline(0, color=QUIET, lw=0.8)
        axis.set(title=title, xlabel="sample", ylabel="margin")
        axis.set_xticks(range(0, 14, 2))
    return figure


def r1_memory(given: Given) -> Figure:
    """By memory."""
    found = check_model(given.seen(Remembering()))
    told("R1", found, check_model(given.seen(plain)))
    assert any("remembers" in finding.diagnosis for finding in found)
    figure, axes = panels(sharey=True)
    kinds = (
        (Changed(noisy), QUIET, "chance: no answer is the special one"),
        (Remembering(), SYMPTOM, "memory: the first is, and the rest agree"),
    )
    for axis, (model, colour, title) in zip(axes, kinds, strict=True):
        values = margins(model, given, 7)[:, :14]
        axis.plot(np.arange(1, 8), values, "-", color=colour, lw=0.8, alpha=0.7)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=title, xlabel="which of equal questions", ylabel="margin")
    return figure


def rugged(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Waves of the input, of about the size of a perturbation."""
    return network(x + 0.5 * torch.sin(40 * x))


def r2(given: Given) -> Figure:
    """Rugged."""
    kept = []
    for index in range(len(given.x)):
        with torch.no_grad():
            guess = Changed(rugged)(torch.from_numpy(given.x[index : index + 1]))
        if int(guess.argmax()) == given.y[index]:
            kept.append(index)
    some = Given(given.x[kept], given.y[kept])
    bad, good = some.seen(rugged), some.seen(plain)
    told("R2", check_model(bad), check_model(good))
    figure, (axis,) = panels(1)
    for seen, colour, name in ((good, SOUND, "sound"), (bad, SYMPTOM, "rugged")):
        share = np.sort(seen.noise)
        axis.plot(
            np.linspace(0, 100, len(share)), 100 * share, "o-", color=colour, ms=3,
            label=name,
        )  # fmt: skip
    axis.axhline(30, color=QUIET, ls=":", label="30 %: suspicious, in the median")
    axis.set_yscale("log")
    axis.set(
        title="change of the margin under noise of half an epsilon, % of it",
        xlabel="samples in ascending order, %",
    )
    axis.legend()
    return figure


def o1(given: Given) -> Figure:
    """Saturated."""

    def softmax(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network(x).softmax(dim=1)

    told("O1", [f for f in check_model(given.seen(softmax)) if f.severity > 1],
         [f for f in check_model(given.seen(plain)) if f.severity > 1])  # fmt: skip
    network = demo.load_model("digits")
    x, y = torch.from_numpy(given.x[:1]), torch.from_numpy(given.y[:1])
    sizes: dict[str, list[float]] = {"m": [], "cross-entropy": [], "margin": []}
    for scale in np.geomspace(0.02, 40, 120):
        point = x.clone().requires_grad_()
        z = float(scale) * network(point)
        top = z.topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).sum()
        loss = torch.nn.functional.cross_entropy(z, y)
        for name, value in (("cross-entropy", loss), ("margin", margin)):
            (slope,) = torch.autograd.grad(value, point, retain_graph=True)
            sizes[name].append(float(slope.abs().max()))
        sizes["m"].append(float(margin.detach()))
    figure, (axis,) = panels(1)
    for name, colour in (("margin", SOUND), ("cross-entropy", SYMPTOM)):
        values = np.array(sizes[name])
        shown = np.where(values > 0, values, 1e-45)
        axis.loglog(sizes["m"], shown, color=colour, label=f"of the {name}")
    axis.axvline(17, color=QUIET, ls=":", label="margin 17")
    axis.set(
        title="largest slope of a loss, in single precision; at the bottom: exactly 0",
        xlabel="margin of the logits, as they are scaled up",
    )
    axis.legend(loc="center left")
    return figure


def o2(given: Given) -> Figure:
    """Too few classes for a loss."""
    two = np.flatnonzero(given.y < 2)

    def pair(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network(x)[:, :2]

    some = Given(given.x[two], given.y[two])
    told("O2", check_model(some.seen(pair)), check_model(given.seen(plain)))
    with torch.no_grad():
        z = demo.load_model("digits")(torch.from_numpy(given.x[:1]))[0]
    figure, axes = panels(3, sharey=True)
    kinds = ((10, "ten classes: defined", SOUND),
             (3, "three: not with a target", SYMPTOM),
             (2, "two: not at all", SYMPTOM))  # fmt: skip
    for axis, (count, title, colour) in zip(axes, kinds, strict=True):
        values = np.sort(z.numpy())[::-1][:count]
        axis.bar(np.arange(1, count + 1), values - values.min() + 0.3, color=colour)
        axis.set(title=title, xlabel="logits in descending order")
        axis.set_xticks([1, 2, 3, 4][: max(count, 3)])
        if count == 2:
            axis.text(3, 1, "no third\nto divide by", ha="center", fontsize=8)
        axis.set_xlim(0.3, 4.7 if count < 10 else 10.7)
    return figure


def o3(given: Given) -> Figure:
    """Inner optimisation."""
    told("O3", check_model(given.seen(purified)), check_model(given.seen(plain)))
    figure, (left, right) = panels(sharey=True)
    along(left, plain, given, 0.25, "sound: slopes (black) are its own")
    along(right, purified, given, 0.25, "purified first: slopes leave that out")
    return figure


# Of a run


def traces(axes: Axes, results: rk.Results, name: str, of: str, colour: str) -> None:
    """Thin lines for some samples, a thick one for the median."""
    trace = results.traced(name).trace
    values = np.array(getattr(trace, of))[:, : int(trace.points().max())]
    steps = np.arange(values.shape[1]) * int(np.median(trace.stride))
    if of == "margin":
        values = np.column_stack([values, trace.last_margin])
        steps = np.append(steps, int(trace.steps.max()))
    known = np.isfinite(values).any(axis=0)
    for row in values[:12]:
        axes.plot(steps[known], row[known], color=colour, lw=0.5, alpha=0.5)
    middle = np.nanmedian(np.where(np.isfinite(values), values, np.nan)[:, known], 0)
    axes.plot(steps[known], middle, color=colour, lw=2)
    axes.set(xlabel="step")


def s1(given: Given) -> Figure:
    """Found and lost."""
    attacks = {"stays": Walk(2.5, 2.0, steps=20), "goes home": Walk(2.5, 2.0, True, 20)}
    results = {
        name: given.run(plain, {name: attack}) for name, attack in attacks.items()
    }
    told("S1", check_traces(results["goes home"]), check_traces(results["stays"]))
    figure, axes = panels(sharey=True)
    for axis, name, colour in zip(axes, results, (SOUND, SYMPTOM), strict=True):
        traces(axis, results[name], name, "margin", colour)
        axis.axhline(0, color=QUIET, lw=0.8)
        axis.set(title=f"an attack that {name}", ylabel="margin")
    return figure


def s2(given: Given) -> Figure:
    """Stopped too soon."""
    attacks = {"is done": Walk(1.5, 1.48), "was stopped": Walk(4.0, 1.3)}
    results = {
        name: given.run(plain, {name: attack}) for name, attack in attacks.items()
    }
    told("S2", check_traces(results["was stopped"]), check_traces(results["is done"]))
    figure, axes = panels(sharey=True)
    for axis, name, colour in zip(axes, results, (SOUND, SYMPTOM), strict=True):
        traces(axis, results[name], name, "best_distance", colour)
        axis.axvspan(36, 40, color=QUIET, alpha=0.25, lw=0)
        axis.set(title=f"an attack that {name}", ylabel="best distance so far")
    return figure


def s3(given: Given) -> Figure:
    """Adversarials that do not hold."""
    results = given.run(plain, ["fmn"])
    (own,) = ask_again(rk.TorchModel(demo.load_model("digits")), results, 64)
    (other,) = ask_again(rk.TorchModel(demo.load_model("digits-robust")), results, 64)
    told("S3", check_transfer(other), check_transfer(own))
    figure, axes = panels(sharey=True)
    kinds = ((own, SOUND, "the model they were made on"),
             (other, SYMPTOM, "another model"))  # fmt: skip
    for axis, (transfer, colour, title) in zip(axes, kinds, strict=True):
        axis.bar(np.arange(len(transfer.held)), 100 * transfer.held, color=colour)
        axis.axhline(50, color=QUIET, ls=":")
        if not transfer.held.any():
            axis.text(len(transfer.held) / 2, 25, "none does", ha="center")
        axis.set(title=title, xlabel="adversarial", ylabel="holds, % of five times")
    return figure


def success(
    axes: Axes, distance: np.ndarray, colour: str, name: str, to: float, **line: Any
) -> None:
    """Success against size."""
    grid = np.linspace(0, to, 300)
    share = [100 * float((distance <= size).mean()) for size in grid]
    axes.plot(grid, share, color=colour, label=name, **line)
    axes.set(xlabel="size, linf", ylabel="samples broken, %")


def s4(given: Given) -> Figure:
    """Not even without a limit."""
    bad, good = given.run(rounded, ["fmn"], budget=40), given.run(plain, ["fmn"])
    told("S4", check_run(bad), check_run(good))
    figure, (axis,) = panels(1)
    success(axis, good.distances(), SOUND, "FMN, sound network", 1.0)
    success(axis, bad.distances(), SYMPTOM, "FMN, behind a rounded input", 1.0)
    axis.axhline(100, color=QUIET, ls=":")
    axis.set_title("every class can be reached within 1")
    axis.legend(loc="center right")
    return figure


def c1(given: Given) -> Figure:
    """Success that falls."""
    origin = torch.from_numpy(given.x)

    def snapped(network: Any, batch: torch.Tensor) -> torch.Tensor:
        gaps = (batch[:, None] - origin[None]).flatten(2).abs().amax(dim=2)
        near, place = gaps.min(dim=1)
        far = (near > 0.22).reshape(-1, 1, 1, 1)
        return network(torch.where(far, origin[place], batch))

    attack = rk.PGD(EPSILON, steps=3)
    bad, good = (given.tried(c, attack=attack) for c in (snapped, plain))
    told("C1", check_trials(bad), check_trials(good))
    figure, (axis,) = panels(1)
    kinds = ((good, SOUND, "sound"), (bad, SYMPTOM, "answers "
             "about the nearest it knows"))  # fmt: skip
    for tried, colour, name in kinds:
        axis.semilogx(
            tried.epsilons, 100 * tried.broken.mean(axis=0), "o-", color=colour,
            label=name,
        )  # fmt: skip
    axis.set_xticks(bad.epsilons, [f"{e:.3g}" for e in bad.epsilons])
    axis.minorticks_off()
    axis.set(title="PGD, tried at each size", xlabel="epsilon", ylabel="broken, %")
    axis.legend(loc="upper left")
    return figure


def c2(given: Given) -> Figure:
    """More than chance."""
    bad, good = given.run(rounded, ["fmn"], budget=40), given.run(plain, ["fmn"])
    told("C2", check_run(bad), check_run(good))
    figure, (axis,) = panels(1)
    grid = np.linspace(0, 0.55, 200)
    kinds = ((good, SOUND, "FMN, sound network"),
             (bad, SYMPTOM, "FMN, behind a rounded input"))  # fmt: skip
    for results, colour, name in kinds:
        left = [100 * results.robust_accuracy(e).estimate for e in grid[1:]]
        axis.plot(grid[1:], left, color=colour, label=name)
    counts = np.unique(given.y, return_counts=True)[1]
    axis.axhline(100 * counts.max() / len(given.y), color=QUIET, ls=":", label="chance")
    axis.axvline(0.5, color=QUIET, lw=0.8)
    axis.text(0.495, 20, "any image can\nbe made grey", ha="right", fontsize=8)
    axis.set(xlabel="size, linf", ylabel="robust accuracy, %")
    axis.legend(loc="center", bbox_to_anchor=(0.66, 0.65))
    return figure


def versus(axes: Axes, results: rk.Results, id: str, colour: str, title: str) -> None:
    """The weaker side's distances against the stronger's."""
    compared = sides(results, "linf", id)
    assert compared is not None
    weak, strong = compared
    low, high = 0.01, 1.3
    x, y = (np.clip(s.distance, low, high) for s in (strong, weak))
    axes.plot([low, high], [low, high], color=QUIET, lw=0.8)
    axes.loglog(x, y, ".", color=colour, ms=5)
    axes.set(
        title=title, xlabel=", ".join(strong.attacks), ylabel=", ".join(weak.attacks)
    )


def pair(given: Given, id: str, symptom: Any, sound: Any) -> Figure:
    """Two evaluations, each with its two sides."""
    told(id, check_run(symptom[0]), check_run(sound[0]))
    figure, (left, right) = panels(sharex=True, sharey=True)
    versus(left, sound[0], id, SOUND, sound[1])
    versus(right, symptom[0], id, SYMPTOM, symptom[1])
    return figure


def c3(given: Given) -> Figure:
    """One step better than many."""
    timid = rk.Minimise(rk.PGD(1.0, steps=20, stepsize=0.002), steps=60)
    bad = given.run(plain, {"fgsm": rk.get_attack("fgsm"), "pgd": timid})
    good = given.run(plain, ["fgsm", "pgd"])
    return pair(given, "C3", (bad, "steps of a 500th: one step is nearer"),
                (good, "sound: many steps are nearer"))  # fmt: skip


def c4(given: Given) -> Figure:
    """Half of the steps."""
    bad = given.run(plain, {"walk": Walk(3.0, 1.0)})
    good = given.run(plain, ["auto"])
    told("C4", check_effort(bad), check_effort(good))
    figure, axes = panels(sharey=True)
    kinds = ((good, SOUND, "sound: half was enough"),
             (bad, SYMPTOM, "stopped before it was done"))  # fmt: skip
    for axis, (results, colour, title) in zip(axes, kinds, strict=True):
        known = after_half(results, "linf")
        assert known is not None
        _, half, whole = known
        success(axis, half, colour, "after half of the steps", 0.3, ls="--")
        success(axis, whole, colour, "after all", 0.3)
        axis.set_title(title)
    # Where no line runs below it.
    axes[0].legend(loc="lower right")
    return figure


def c5(given: Given) -> Figure:
    """Without gradients better."""
    attacks = {
        "pgd": rk.get_attack("pgd").within(60),
        "square": rk.get_attack("square").within(500),
    }
    bad = given.run(jagged, attacks)
    good = given.run(plain, ["auto", "square"], budget=500)
    return pair(given, "C5", (bad, "jagged: Square is nearer than PGD"),
                (good, "sound: gradients are nearer"))  # fmt: skip


def c6(given: Given) -> Figure:
    """Noise better."""
    bad = given.run(rounded, ["fmn", "gaussian-noise"], budget=60)
    good = given.run(plain, ["fmn", "gaussian-noise"], budget=60)
    return pair(given, "C6", (bad, "rounded input: noise is nearer"),
                (good, "sound: gradients are nearer"))  # fmt: skip


def bars(axes: Axes, values: dict[str, float], colours: list[str], title: str) -> None:
    """Shares as bars."""
    axes.barh(list(values)[::-1], [100 * v for v in values.values()][::-1],
              color=colours[::-1])  # fmt: skip
    axes.set(title=title, xlim=(0, 105), xlabel="samples, %")


def c7(given: Given) -> Figure:
    """Weak where nothing protects."""

    def hidden(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network((x + 0.3 * torch.randn_like(x)).detach() + 0 * x)

    def open_(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network(x + 0.05 * torch.randn_like(x))

    bad, good = (given.tried(c, random=True) for c in (hidden, open_))
    told("C7", check_trials(bad), check_trials(good))
    figure, axes = panels(sharey=True)
    kinds = ((good, SOUND, "randomness is all there is to it"),
             (bad, SYMPTOM, "randomness is not what it fails for"))  # fmt: skip
    for axis, (tried, colour, title) in zip(axes, kinds, strict=True):
        values = {
            "as it is": float(tried.broken[:, -1].mean()),
            "held still": float(tried.fixed.mean()),
        }
        bars(axis, values, [QUIET, colour], title)
        axis.axvline(90, color=QUIET, ls=":")
        axis.set_xlabel("broken by PGD with no limit, %")
    return figure


def c8(given: Given) -> Figure:
    """Targets that help."""

    def decoy(network: Any, x: torch.Tensor) -> torch.Tensor:
        z = network(x)
        return torch.cat([z, z.max(dim=1, keepdim=True).values - 0.01], dim=1)

    bad, good = (given.tried(c) for c in (decoy, plain))
    told("C8", check_trials(bad), check_trials(good))
    figure, axes = panels(sharey=True)
    kinds = ((good, SOUND, "sound"), (bad, SYMPTOM, "a decoy is always second"))
    for axis, (tried, colour, title) in zip(axes, kinds, strict=True):
        values = {
            "three targets": float(tried.targeted.mean()),
            "no target": float(tried.patient.mean()),
        }
        bars(axis, values, [QUIET, colour], title)
        axis.set_xlabel("broken by PGD with equal passes, %")
    return figure


def c9(given: Given) -> Figure:
    """What nobody looked at."""
    attacks = {
        "pgd": rk.get_attack("pgd").within(60),
        "square": rk.get_attack("square").within(500),
    }
    both = given.run(jagged, attacks)
    alone = given.run(jagged, {"pgd": attacks["pgd"]})
    told("C9", check_run(alone), check_run(both))
    figure, (axis,) = panels(1)
    success(axis, both.distances("linf", "pgd"), SYMPTOM, "PGD, which was run", 0.6)
    success(
        axis, both.distances("linf", "square"), SOUND, "Square, had it been run", 0.6,
        ls="--",
    )  # fmt: skip
    axis.set_title("behind a jagged input: no attack of the run could have told")
    axis.legend(loc="lower right")
    return figure


def c10(given: Given) -> Figure:
    """Sample by sample."""

    @dataclasses.dataclass(frozen=True)
    class Half(Walk):
        """Good at the images of some classes only."""

        odd: bool = False

        def step(self, p: Any, s: None, t: int) -> None:
            """As `Walk`, but thrice as far for the others."""
            a = p.gradient(p.x)
            reach = p.norm.to_boundary(a.margin, a.gradient)
            dark = p.x.numpy().reshape(p.size, -1).sum(axis=1)
            mine = (np.floor(100 * dark) % 2 == 1) == self.odd
            size = reach.numpy() * np.where(mine, 1.05, 3)
            scale = type(p.x)(p.x.raw.new_tensor(size).reshape(-1, 1, 1, 1))
            p.score(p.x - a.gradient.sign() * scale)

    two = {"one": Half(steps=2, odd=True), "other": Half(steps=2)}
    bad, good = given.run(plain, two), given.run(plain, ["auto", "fgsm"])
    told("C10", check_run(bad), check_run(good))
    figure, (axis,) = panels(1)
    for name in two:
        success(axis, bad.distances("linf", name), SYMPTOM, f"{name} alone", 0.3, lw=1)
    success(axis, bad.distances(), SOUND, "the nearest of both, image by image", 0.3)
    axis.set_title("two attacks, each good at other images")
    axis.legend(loc="upper left")
    return figure


def c11(given: Given) -> Figure:
    """Not the model's data."""
    shifted = (given.y + 3) % 10
    bad = rk.evaluate(Changed(plain), (given.x, shifted), attacks=["fgsm"])
    good = given.run(plain, ["fgsm"])
    told("C11", check_run(bad), check_run(good))
    figure, (axis,) = panels(1)
    values = {
        "labels of the model": good.clean_accuracy.estimate,
        "labels in another order": bad.clean_accuracy.estimate,
    }
    bars(axis, values, [SOUND, SYMPTOM], "clean accuracy")
    axis.axvline(10, color=QUIET, ls=":")
    axis.text(11, 0.5, "chance", fontsize=8, va="center")
    return figure


def t1(given: Given) -> Figure:
    """A test with a known answer."""
    rates, found = {}, {}
    for name, change in (("sound", plain), ("rounded input", rounded)):
        with tempfile.TemporaryDirectory() as folder:
            results = given.run(change, ["fmn"], out=Path(folder) / "run", budget=100)
            warrant(results, Changed(change), given.data, ["fmn"])
            results.reload_warrants()
            rates[name] = results.warrant("linf", "fmn")["success_rate"]
            found[name] = check_run(results)
    told("T1", found["rounded input"], found["sound"])
    figure, (axis,) = panels(1)
    for place, (name, colour) in enumerate(
        (("rounded input", SYMPTOM), ("sound", SOUND))
    ):
        rate = rates[name]
        axis.barh(name, 100 * rate["estimate"], color=colour)
        ends = 100 * np.array([rate["lower"], rate["upper"]])
        axis.plot(ends, [place, place], color="black", lw=2)
    axis.axvline(95, color=QUIET, ls=":")
    axis.set(
        title="adversarials known to exist, and found by FMN (black: 95 % interval)",
        xlabel="found, %",
        xlim=(0, 102),
    )
    return figure


PICTURES: dict[str, Callable[[Given], Figure]] = {
    "G1": g1, "G2": g2, "G3": g3, "R1": r1, "R1-memory": r1_memory, "R2": r2,
    "O1": o1, "O2": o2, "O3": o3, "S1": s1, "S2": s2, "S3": s3, "S4": s4,
    "C1": c1, "C2": c2, "C3": c3, "C4": c4, "C5": c5, "C6": c6, "C7": c7, "C8": c8,
    "C9": c9, "C10": c10, "C11": c11, "T1": t1,
}  # fmt: skip
"""By the name of the file."""


def main() -> None:
    """Measure, and draw."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ids", nargs="*", default=list(PICTURES))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    x, y = (np.asarray(values) for values in demo.load_data("digits"))
    with torch.no_grad():
        right = demo.load_model("digits")(torch.from_numpy(x)).argmax(1).numpy() == y
    given = Given(x[right][: asked.samples], y[right][: asked.samples])
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.ids:
        with mpl.rc_context(STYLE), seeded(0):
            figure = PICTURES[name](given)
            figure.savefig(asked.out / f"{name}.png", dpi=120)
        # A few colours are enough, and a quarter of the bytes.
        with Image.open(asked.out / f"{name}.png") as picture:
            few = picture.convert("RGB").quantize(64)
        few.save(asked.out / f"{name}.png", optimize=True)
        print(asked.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
