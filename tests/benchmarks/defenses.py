"""Defenses rebuilt small, each with a weak and a strong attack: who passes the test?

    python tests/benchmarks/defenses.py [NAME ...]
    python tests/benchmarks/defenses.py --write

Prints the table of docs/explanation/active-tests.md, or puts it into the page. Networks
are the demo network, or small ones trained here in seconds; nothing is kept. NAME: a
part of a defense's.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import robustkit as rk
from robustkit import demo
from robustkit.active_tests.binarization import binarize
from robustkit.numerics.random import seeded

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "active-tests.md"
MARKS = ("<!-- table of tests/benchmarks/defenses.py -->", "<!-- end -->")
EPSILON = 0.1
# Within which the detector can be made to speak at nearly all inputs.
WIDE = 0.3
SAMPLES = 128
POINTS, TRIES = 500, 100


@dataclass
class Row:
    """A defense, the original kind of attack on it, and one that suits it.

    `strong_model` has the same outputs as `model` but another backward pass (BPDA).
    """

    model: nn.Module
    weak: tuple[str, Any]
    strong: tuple[str, Any]
    strong_model: nn.Module | None = None
    settings: dict[str, Any] | None = None
    epsilon: float = EPSILON


class Through(nn.Module):
    """A transformation of the input, and the network behind it."""

    def __init__(
        self, change: Callable[[torch.Tensor], torch.Tensor], net: nn.Module
    ) -> None:
        super().__init__()
        self.change, self.net = change, net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.change(x))


def straight_through(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same values with the identity's gradient: BPDA."""
    return lambda x: x + (change(x) - x).detach()


def trained(net: Any, epochs: int = 20) -> Any:
    """Trained for a few seconds on the digits that come with scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


class TopActivations(nn.Module):
    """k-WTA: only the largest activations survive."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = max(int(self.share * x.shape[1]), 1)
        least = x.topk(count, dim=1).values[:, -1:]
        return x * (x >= least)


def perceptron(activation: Callable[[], nn.Module], width: int = 256) -> nn.Sequential:
    """Two hidden layers on 64 pixels."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, width),
            activation(), nn.Linear(width, 10),
        )  # fmt: skip


def quantise(x: torch.Tensor) -> torch.Tensor:
    return (x * 8).round() / 8


def shatter(x: torch.Tensor) -> torch.Tensor:
    return x + 0.05 * torch.sin(400 * x)


def noise(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn_like(x)


def _cosines() -> torch.Tensor:
    k = torch.arange(8.0)
    basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / 8) / 2
    basis[0] /= math.sqrt(2)
    return basis


def compress(x: torch.Tensor) -> torch.Tensor:
    """JPEG's core: round the coefficients of the 8 by 8 cosine transform."""
    c = _cosines()
    coefficients = c @ x @ c.T
    step = 0.15 * (1 + torch.arange(8.0)[:, None] + torch.arange(8.0)[None]) / 4
    return c.T @ ((coefficients / step).round() * step) @ c


class Thermometer(nn.Module):
    """Pixels as bits: above 1/16, above 2/16, ...; backwards, sigmoids as steep."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = (torch.arange(15).view(1, -1, 1, 1) + 0.5) / 16
        soft = torch.sigmoid(self.steepness * (x - levels))
        return soft + ((x > levels).float() - soft).detach()


class Squeezing(nn.Module):
    """Detects what a blur changes the answer to: by how much, less what is usual."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.usual = self.change(torch.tensor(demo.load_data("digits")[0])).quantile(
            0.9
        )
        self.eval()

    def change(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(x.requires_grad):
            blurred = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            return (self.net(x) - self.net(0.7 * x + 0.3 * blurred)).abs().sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(x) - self.usual.detach()


class Scaled(nn.Module):
    """Defensive distillation's effect: logits a thousand times larger."""

    def __init__(self, net: nn.Module, scale: float = 1e3) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.net(x)


class Rounded(nn.Module):
    """EMPIR's effect: an ensemble whose members have activations of a few bits."""

    def __init__(self, net: nn.Sequential, bpda: bool = False) -> None:
        super().__init__()
        self.net, self.bpda = net, bpda

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.net:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                low = (x * 2).round() / 2
                x = x + (low - x).detach() if self.bpda else low
        return x


def pgd(
    steps: int = 40, passes: int = 1, loss: str = "margin", epsilon: float = EPSILON
) -> Any:
    """Plain PGD of sign steps; the last iterate counts. Averages over passes."""

    def attack(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = x.clone()
        for step in range(steps):
            gradient = torch.zeros_like(x)
            for _ in range(passes):
                z = z.detach().requires_grad_()
                logits = model(z)
                if loss == "margin":
                    value = logits[:, 0] - logits[:, 1:].amax(1)
                else:
                    value = -functional.cross_entropy(logits, y, reduction="none")
                gradient += torch.autograd.grad(value.sum(), z)[0]
            length = 2 * epsilon * (1 - 0.95 * step / steps)
            z = z.detach() - length * gradient.sign()
            z = (x + (z - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        return z

    return attack


@functools.cache
def plain() -> Any:
    return trained(perceptron(nn.ReLU))


@functools.cache
def thermometers() -> tuple[Any, Any]:
    """One network behind two thermometers, which differ backwards only."""
    bits = nn.Sequential(nn.Flatten(), nn.Linear(960, 64), nn.ReLU(), nn.Linear(64, 10))
    steep = trained(nn.Sequential(Thermometer(1e4), bits))
    return steep, nn.Sequential(Thermometer(16.0), bits)


MARGIN, ENTROPY = ("PGD, margin", pgd()), ("PGD, cross-entropy", pgd(loss="ce"))
BLIND, JOINT = ("PGD, blind", pgd()), ("PGD, joint", rk.PGD(EPSILON, steps=100))
FAR_BLIND = ("PGD, blind", pgd(epsilon=WIDE))
FAR_JOINT = ("PGD, joint", rk.PGD(WIDE, steps=100))
BPDA = ("BPDA + PGD", pgd())
SQUARE = ("Square, 5,000 queries", rk.Square(EPSILON))
ONE_PASS, EOT = ("PGD, 1 pass", pgd()), ("PGD, 30 passes (EOT)", pgd(passes=30))
VOTED = {"votes": 9, "points": 100, "tries": 20, "mode": "hard"}

ROWS: dict[str, Callable[[], Row]] = {
    "none": lambda: Row(plain(), ("-", None), MARGIN),
    "distillation (logits x 1000)": lambda: Row(Scaled(plain()), ENTROPY, MARGIN),
    "input quantisation": lambda: Row(
        Through(quantise, plain()), MARGIN, BPDA,
        Through(straight_through(quantise), plain()),
    ),
    "thermometer": lambda: Row(thermometers()[0], MARGIN, BPDA, thermometers()[1]),
    "DCT rounding (JPEG)": lambda: Row(
        Through(compress, plain()), MARGIN,
        ("BPDA + PGD, best of 200", rk.PGD(EPSILON, steps=200)),
        Through(straight_through(compress), plain()),
    ),
    "shattering (sine)": lambda: Row(Through(shatter, plain()), MARGIN, SQUARE),
    "k-WTA": lambda: Row(
        trained(perceptron(lambda: TopActivations(0.2))), MARGIN, SQUARE
    ),
    "low precision (EMPIR)": lambda: Row(
        Rounded(plain()), MARGIN, BPDA, Rounded(plain(), bpda=True)
    ),
    "input noise": lambda: Row(
        Through(noise, plain()), ONE_PASS, EOT, settings=VOTED
    ),
    "feature squeezing": lambda: Row(
        plain(), BLIND, JOINT, settings={"detector": Squeezing(plain())}
    ),
    "feature squeezing, inverted test": lambda: Row(
        plain(), BLIND, JOINT,
        settings={"detector": Squeezing(plain()), "inverted": True},
    ),
    "feature squeezing, Linf 0.3": lambda: Row(
        plain(), FAR_BLIND, FAR_JOINT, epsilon=WIDE,
        settings={"detector": Squeezing(plain())},
    ),
    "feature squeezing, Linf 0.3, inverted test": lambda: Row(
        plain(), FAR_BLIND, FAR_JOINT, epsilon=WIDE,
        settings={"detector": Squeezing(plain()), "inverted": True},
    ),
    "adversarial training, hard mode": lambda: Row(
        demo.load_model("digits-robust"), ("PGD, 1 step", pgd(1)),
        ("PGD, 200 steps", pgd(200)), settings={"mode": "hard"},
    ),
}  # fmt: skip


def line(name: str, row: Row, samples: int = SAMPLES) -> str:
    """One line of the table."""
    x, _ = demo.load_data("digits")
    start = time.perf_counter()
    built = binarize(
        row.model.eval(),
        x,
        epsilon=row.epsilon,
        samples=samples,
        **{"points": POINTS, "tries": TRIES, **(row.settings or {})},
    )
    cells = [name]
    for model, (label, attack) in ((None, row.weak), (row.strong_model, row.strong)):
        if attack is None:
            cells += [label, "-", "-"]
            continue
        asked = built
        if model is not None:
            # The same answers by another way back, so the same problems.
            asked = dataclasses.replace(built, model=rk.TorchModel(model.eval()))
        result = asked.test(attack)
        cells += [label, f"{result.success_rate.estimate:.2f}", result.verdict.value]
    cells += [f"{result.random_rate.estimate:.2f}", f"{result.coverage:.2f}"]
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return "| " + " | ".join(cells) + " |"


def table(words: list[str]) -> list[str]:
    """The lines of the table: all defenses, or those whose names have a word."""
    lines = [
        "| Defense | Weak attack | ASR | Verdict | Strong attack | ASR | Verdict "
        "| R-ASR | Coverage |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    # What is random here draws from torch's global generator.
    with seeded(0):
        for name, build in ROWS.items():
            if not words or any(word in name for word in words):
                lines.append(line(name, build()))
    return lines


def main() -> None:
    torch.set_num_threads(1)
    words = sys.argv[1:]
    if words != ["--write"]:
        print("\n".join(table(words)))
        return
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    text = "\n".join(table([]))
    PAGE.write_text(
        f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
