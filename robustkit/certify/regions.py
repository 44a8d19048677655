"""The perturbations that a certificate speaks of, and linear functions on them."""

from dataclasses import dataclass

import torch

from robustkit.errors import BadInput, suggestion

__all__ = ["NORMS", "UNIT", "Region"]

NORMS = ("linf", "l2", "l1")
"""Of the balls that can be certified."""

UNIT = 2.0**-53
"""By that share an operation in double precision is rounded, at most."""

_REFINEMENTS = 4


@dataclass(frozen=True, eq=False)
class Region:
    """A ball around an input, cut to the box of valid inputs.

    Rounded outwards: what is said of it holds in exact arithmetic.

    Args:
        x: (d,) the centre, within the box.
        norm: One of `NORMS`.
        radius: Of the ball, in norm units.
        lower: Of the box.
        upper: Of the box.

    >>> x = torch.tensor([0.5, 0.1], dtype=torch.float64)
    >>> region = Region(x, "l1", 0.4, 0.0, 1.0)
    >>> region.least(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    tensor([-0.5000], dtype=torch.float64)
    """

    x: torch.Tensor
    norm: str
    radius: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise BadInput(
                f"nothing can be certified in the norm '{self.norm}'; "
                f"{suggestion(self.norm, NORMS)}"
            )

    def box(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(d,) lower and upper ends of the smallest box around the region."""
        end = torch.tensor(torch.inf, dtype=torch.float64)
        return (
            torch.nextafter(self.x - self._outer, -end).clamp(min=self.lower),
            torch.nextafter(self.x + self._outer, end).clamp(max=self.upper),
        )

    @property
    def _rounding(self) -> float:
        """The share by which sums over all features may be wrong."""
        return 8.0 * (len(self.x) + 8) * UNIT

    @property
    def _outer(self) -> float:
        """The radius of a ball in which the ball lies whatever is rounded."""
        return self.radius * (1 + self._rounding)

    def least(
        self, rows: torch.Tensor, columns: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(m,) below which no row times a perturbation falls.

        That value is reached in linf and l1. In l2 it is that of the Lagrangian of the
        ball for a good multiplier, which is never above what can be reached.

        Args:
            rows: (m, d), or (m, k) if they are zero elsewhere.
            columns: (m, k) the features that these k are about, each once but for
                zeros; None: all, in order.
        """
        low, high = self.box()
        x = self.x
        if columns is not None:
            low, high, x = low[columns], high[columns], x[columns]
        # How far a feature can move in the direction that makes the row fall.
        room = torch.where(rows > 0, x - low, high - x)
        steep = rows.abs()
        if self.norm == "linf":
            return -(steep * room).sum(dim=1) * (1 + self._rounding)
        if self.norm == "l1":
            steepest, order = steep.sort(dim=1, descending=True)
            space = room.gather(1, order)
            left = self._outer - (space.cumsum(dim=1) - space)
            moved = torch.minimum(space, left.clamp(min=0))
            return -(steepest * moved).sum(dim=1) * (1 + self._rounding)
        return self._least_in_l2(steep, room)

    def _least_in_l2(self, steep: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        """By weak duality: any multiplier of the ball gives a bound."""
        radius, share = self._outer, self._rounding
        best = torch.maximum(
            -radius * steep.norm(dim=1), -(steep * room).sum(dim=1)
        ) * (1 + share)
        multiplier = steep.norm(dim=1) / max(radius, 1e-300)
        for _ in range(_REFINEMENTS):
            positive = multiplier.clamp(min=1e-300)[:, None]
            moved = torch.minimum(steep / positive, room)
            # What is added and what is taken away, so that neither is rounded down.
            up = (multiplier[:, None] / 2 * moved**2).sum(dim=1)
            down = (steep * moved).sum(dim=1) + multiplier * radius**2 / 2
            bound = up * (1 - share) - down * (1 + share)
            # An infinite multiplier says nothing.
            best = torch.maximum(best, bound.nan_to_num(nan=-torch.inf))
            # What is not stopped by the box shares what is left of the radius.
            stopped = moved >= room
            spent = torch.where(stopped, room**2, 0.0).sum(dim=1)
            free = torch.where(stopped, 0.0, steep**2).sum(dim=1)
            left = (radius**2 - spent).clamp(min=0)
            multiplier = torch.where(left > 0, (free / left).sqrt(), multiplier)
        return best
