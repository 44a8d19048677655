"""Temporal dependency: what is heard of the first half must not depend on the second.

The original is about speech. Here phrases of four tones are spoken by a generator; a
recurrent network writes them down, and the phrase that fits best is the answer.
"""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, over, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import fit, load

__all__ = ["Consistency", "Listener", "make", "phrases", "speak", "train"]

_TONES, _LENGTH, _NOISE = 4, 16, 0.15
_BOUNDS = (-1.0, 1.0)


def phrases() -> Tensor:
    """(8, 4) tones; any two of them agree in one place at most."""
    return torch.tensor(
        [
            [0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0],
            [0, 2, 3, 1], [1, 3, 2, 0], [2, 0, 1, 3], [3, 1, 0, 2],
        ]
    )  # fmt: skip


def speak(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Waves (count, 1, 64) in [-1, 1] and the phrases (count,) that they are.

    Tones differ in loudness and phase, and there is noise.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (count,), generator=generator)
    loud, phase = torch.rand(2, count, 4, 1, generator=generator)
    time = torch.arange(_LENGTH)
    turns = (phrases()[y][:, :, None] + 1.5) * time / _LENGTH
    waves = (0.1 + 0.4 * loud) * torch.sin(2 * torch.pi * (turns + phase))
    noise = torch.randn(count, 4 * _LENGTH, generator=generator)
    waves = waves.flatten(1) + _NOISE * noise
    return waves[:, None].clamp(*_BOUNDS), y


class Listener(nn.Module):
    """Hears tones, each in the light of all that comes before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.ear = nn.Sequential(
            nn.Conv1d(1, 16, 8, stride=4, padding=2), nn.ReLU(),
            nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.memory = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.tone = nn.Linear(48, _TONES)

    def tones(self, x: Tensor) -> Tensor:
        """(n, 1, 16 tones) to log-probabilities (n, tones, 4)."""
        heard = self.ear(x).transpose(1, 2)
        frames, _ = self.memory(heard)
        steps = frames.unflatten(1, (-1, _LENGTH // 4)).mean(2)
        values: Tensor = self.tone(steps).log_softmax(2)
        return values

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 64) to the log-likelihood (n, 8) of each phrase."""
        tones = self.tones(x)
        known = nn.functional.one_hot(phrases(), _TONES).float()
        return torch.einsum("ntk,ptk->np", tones, known)


class Consistency(nn.Module):
    """Rejects what is written down differently when only the first half is heard.

    Args:
        net: That listens.
    """

    def __init__(self, net: Listener) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 64) to the share of tones that differ, less a quarter (n,)."""
        whole = self.net.tones(x).argmax(2)[:, :2]
        half = self.net.tones(x[..., : 2 * _LENGTH]).argmax(2)
        return (whole != half).float().mean(1) - 0.25


def train() -> nn.Module:
    """The listener, on whole phrases and on first halves."""
    net = Listener()
    x, y = speak(3000, seed=1)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        tones = phrases()[y]
        whole, half = net.tones(x), net.tones(x[..., : 2 * _LENGTH])
        told = nn.functional.nll_loss(whole.flatten(0, 1), tones.flatten())
        return told + nn.functional.nll_loss(half.flatten(0, 1), tones[:, :2].flatten())

    return fit(net, x, y, loss, epochs=10)


def make() -> Defense:
    """Weak: PGD on the whole only. By hand: the whole and its first half together."""
    net = load(Listener(), "temporal")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def both(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
            def loss(z: Tensor) -> Tensor:
                heard = net.tones(z[..., : 2 * _LENGTH])
                wanted = net.tones(z)[:, :2].argmax(2)
                missed = over(heard.flatten(0, 1), wanted.flatten()).view(-1, 2)
                whole = over(net(z), target)
                return whole.clamp(min=-1) + missed.clamp(min=-0.5).sum(1)

            return descend(
                slopes(loss), x, epsilon, lambda z: defense.broken(z, y), bounds=_BOUNDS
            )

        with torch.no_grad():
            order = net(x).scatter(1, y[:, None], -torch.inf).topk(7, 1).indices
        return in_turn(x, y, order, defense.broken, both)

    defense = Defense(
        name="temporal",
        title="temporal dependency",
        source="Yang, Li, Chen, Song: Characterizing Audio Adversarial Examples Using "
        "Temporal Dependency, ICLR 2019",
        model=net,
        detector=Consistency(net).eval(),
        weak=pgd(epsilon, bounds=_BOUNDS),
        weak_title="PGD, 40 steps, blind to the detector",
        adaptive=adaptive,
        adaptive_title="the whole and its first half together, towards each phrase",
        epsilon=epsilon,
        bounds=_BOUNDS,
        data=lambda: speak(355, seed=2),
    )
    return defense
