"""A detector that remembers: near copies of earlier questions are not answered."""

import hashlib
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import robustkit as rk
import torch
from robustkit import demo
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.adp import Mean
from robustkit_attacks_zoo.defenses.attacks import descend, lead, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import load

__all__ = ["Blacklight", "make"]


class Blacklight(nn.Module):
    """Answers each question once; near copies of it get the same score for all classes.

    The fingerprint of an image is the smallest hashes of all windows of pixels, rounded
    to few shades. Two images are near copies if they share most of it. What was
    refused is remembered as well.

    Args:
        net: That answers.
        shades: To which pixels are rounded.
        window: Pixels per hash.
        kept: Hashes per fingerprint.
        shared: Of these, how many make a near copy.
    """

    def __init__(
        self,
        net: nn.Module,
        shades: int = 5,
        window: int = 16,
        kept: int = 20,
        shared: int = 12,
    ) -> None:
        super().__init__()
        self.net = net
        self.shades, self.window = shades, window
        self.kept, self.shared = kept, shared
        self.forget()

    def forget(self) -> None:
        """Start with an empty memory."""
        self._seen: dict[bytes, list[int]] = defaultdict(list)
        self._count = 0

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to logits (n, classes), zeros for near copies."""
        with torch.no_grad():
            logits: Tensor = self.net(x)
        new = [self._remember(image) for image in x.detach().numpy()]
        return logits * torch.tensor(new)[:, None]

    def _remember(self, image: np.ndarray) -> bool:
        """Whether an image is no near copy; from now on it is known."""
        rounded = np.floor(image.ravel() * self.shades).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(rounded, self.window)
        hashes = {hashlib.blake2b(w.tobytes(), digest_size=8).digest() for w in windows}
        fingerprint = sorted(hashes)[: self.kept]
        matches = Counter(old for part in fingerprint for old in self._seen[part])
        for part in fingerprint:
            self._seen[part].append(self._count)
        self._count += 1
        return max(matches.values(), default=0) < self.shared


def _square(epsilon: float) -> Any:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        ask = rk.TorchModel(lambda z: model(z), name="blacklight")
        found = rk.run(rk.Square(epsilon, steps=100), ask, x, y, norm="linf")
        points: Tensor = found.x_adversarial
        mask = torch.as_tensor(np.asarray(found.found)).view(-1, 1, 1, 1)
        return torch.where(mask, points, x)

    return attack


def make() -> Defense:
    """Weak: Square. By hand: a single question about what fools other networks."""
    model = Blacklight(demo.load_model("digits")).eval()
    others = load(Mean(), "adp")
    epsilon = 0.2

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def loss(z: Tensor) -> Tensor:
            return lead(others.members(z).log_softmax(2).mean(0), y)

        def never(z: Tensor) -> Tensor:
            return torch.zeros(len(z), dtype=torch.bool)

        return descend(slopes(loss), x, epsilon, never)

    defense = Defense(
        name="blacklight",
        title="stateful detector (Blacklight)",
        source="Li, Shan, Wenger, Zhang, Zheng, Zhao: Blacklight, USENIX Security 2022",
        model=model,
        weak=_square(epsilon),
        weak_title="Square, 100 questions",
        adaptive=adaptive,
        adaptive_title="one question, about what fools other networks",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
