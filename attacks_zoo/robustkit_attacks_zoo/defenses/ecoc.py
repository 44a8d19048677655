"""Error-correcting output codes: bits, squashed and compared with codewords."""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import (
    descend,
    in_turn,
    likelihood,
    pgd,
    slopes,
)
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Bits", "Decoder", "make", "train"]


def _codewords() -> Tensor:
    """(10, 16) rows of a Hadamard matrix, any two of which differ in 8 bits."""
    h = torch.ones(1, 1)
    for _ in range(4):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h[1:11]


class Bits(nn.Module):
    """Four networks, each of four bits before they are squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(perceptron(64, 40, 40, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, 16)."""
        return torch.cat([net(x) for net in self.nets], 1)


class Decoder(nn.Module):
    """Probabilities in proportion to the agreement with each codeword, if positive."""

    codewords: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codewords", _codewords(), persistent=False)

    def forward(self, bits: Tensor) -> Tensor:
        """(n, 16) to probabilities (n, 10)."""
        agreement = (bits.tanh() @ self.codewords.T).relu()
        return agreement / agreement.sum(1, keepdim=True).clamp(min=1e-6)


def _network() -> nn.Sequential:
    return nn.Sequential(Bits(), Decoder())


def train() -> nn.Module:
    """The bits, each by a hinge: on its side, and far from the middle."""
    net = _network()
    codewords = _codewords()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        hinge: Tensor = (12 - net[0](x) * codewords[y]).relu().mean()
        return hinge

    return fit(net, *training_digits(), loss)


def make() -> Defense:
    """Weak: PGD through the squashing. By hand: the bits before it."""
    model = load(_network(), "ecoc")
    epsilon = 0.15
    codewords = _codewords()

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def flip(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
            wanted = (codewords[target] - codewords[y]) / 2

            def loss(z: Tensor) -> Tensor:
                # Bits on the right side already count no more.
                value: Tensor = -(model[0](z) * wanted).clamp(max=2).sum(1)
                return value

            return descend(slopes(loss), x, epsilon, lambda z: defense.broken(z, y))

        with torch.no_grad():
            near = model[0](x) @ codewords.T
        order = near.scatter(1, y[:, None], -torch.inf).topk(9, 1).indices
        return in_turn(x, y, order, defense.broken, flip)

    defense = Defense(
        name="ecoc",
        title="error-correcting codes (ECOC)",
        source="Verma, Swami: Error Correcting Output Codes Improve Probability "
        "Estimation and Adversarial Robustness of Deep Neural Networks, NeurIPS 2019",
        model=model,
        weak=pgd(epsilon, loss=likelihood),
        weak_title="PGD, 40 steps, log-probability",
        adaptive=adaptive,
        adaptive_title="bits before the squashing, towards each codeword",
        epsilon=epsilon,
    )
    return defense
