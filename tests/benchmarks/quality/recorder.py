"""Counts the passes of others' attacks, and keeps the best they asked about."""

from typing import Any

import torch
from torch import Tensor, nn

ORDER = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": float("inf")}
"""Norms by name: p of the p-norm."""

_SLACK = 1e-5
"""How far outside of the box a point may lie to be drawn into it (rounding)."""


class Spent(Exception):
    """Every sample asked about has had the passes it is allowed."""


class Recorder(nn.Module):
    """A network that keeps the nearest adversarial it is shown, for each sample.

    So an attack is judged by the best point it asked about, returned or not. A pass is
    one forward with or without its backward: where they differ the larger number
    counts, per sample. Points asked about after a sample's passes are spent count for
    nothing, and once nobody asked about has any left the attack is ended by `Spent`.

    Args:
        model: Takes (n, ...) in [0, 1], gives logits.
        x: (n, ...) the originals.
        y: (n,) their labels, all predicted; with `targeted` the classes to reach.
        norm: "l0", "l1", "l2" or "linf".
        passes: Allowed per sample.
        in_order: Whether every batch of the attack holds all samples in their order.
            Otherwise a row belongs to the original it is nearest to, which can never
            credit a sample with a point that is not an adversarial of it.
        targeted: Whether the labels are targets.

    Attributes:
        point: (n, ...) the nearest adversarial of each sample; its original if none.
        distance: (n,) float64, in norm units; infinite if none.
        forwards: (n,)
        backwards: (n,)
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: str,
        passes: int,
        *,
        in_order: bool,
        targeted: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.x, self.y, self.norm, self.passes = x, y, norm, passes
        self.in_order, self.targeted = in_order, targeted
        self.point = x.clone()
        self.distance = x.new_full((len(x),), float("inf"), dtype=torch.float64)
        self.forwards = x.new_zeros(len(x), dtype=torch.long)
        self.backwards = x.new_zeros(len(x), dtype=torch.long)
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        rows = self._samples_of(z.detach())
        if bool((self._spent()[rows] >= self.passes).all()):
            raise Spent
        self._bill(self.forwards, rows)
        points = _IntoBox.apply(z)
        logits: Tensor = self.model(points)
        self._keep(points.detach(), logits.detach(), rows)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._bill(self.backwards, rows))
        return logits

    @torch.no_grad()
    def offer(self, z: Tensor) -> None:
        """Look at what the attack returned; billed to nobody."""
        points = _IntoBox.apply(z.detach())
        self._keep(points, self.model(points), torch.arange(len(z), device=z.device))

    def _samples_of(self, z: Tensor) -> Tensor:
        if self.in_order:
            return torch.arange(len(z), device=z.device)
        return torch.cdist(z.flatten(1), self.x.flatten(1)).argmin(dim=1)

    def _spent(self) -> Tensor:
        return torch.maximum(self.forwards, self.backwards)

    def _bill(self, account: Tensor, rows: Tensor) -> None:
        account.index_add_(0, rows, torch.ones_like(rows))

    def _keep(self, points: Tensor, logits: Tensor, rows: Tensor) -> None:
        inside = (points >= 0).flatten(1).all(1) & (points <= 1).flatten(1).all(1)
        paid = self._spent()[rows] <= self.passes
        wrong = is_adversarial(logits, self.y[rows], targeted=self.targeted)
        far = distance(points, self.x[rows], self.norm)
        far[~(inside & paid & wrong)] = float("inf")
        least = self.distance.clone().scatter_reduce_(0, rows, far, "amin")
        better = torch.nonzero((far < self.distance[rows]) & (far == least[rows]))
        which = better.flatten()
        self.point[rows[which]] = points[which]
        self.distance[rows[which]] = far[which]


def is_adversarial(logits: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """(n,) whether another class, or the target, has strictly the highest logit."""
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -float("inf")).amax(dim=1)
    return own > others if targeted else others > own


def distance(points: Tensor, x: Tensor, norm: str) -> Tensor:
    """(n,) float64 distances of points from originals."""
    return (points.double() - x.double()).flatten(1).norm(p=ORDER[norm], dim=1)


class _IntoBox(torch.autograd.Function):
    """Draws points that left the box by rounding only onto it; gradients pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        clipped = z.clamp(0, 1)
        near = ((clipped - z).abs() <= _SLACK).flatten(1).all(1)
        return torch.where(near.view(-1, *[1] * (z.ndim - 1)), clipped, z)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        return slopes
