"""What a relay is made of: its legs, and the plan that suits a norm and a budget."""

import functools
from dataclasses import dataclass

__all__ = ["Leg", "plan"]


@dataclass(frozen=True)
class Leg:
    """One short walk of a relay.

    Attributes:
        length: Its share of the steps, in any unit.
        norm: In whose geometry it walks; None: the problem's.
        start: "origin", "noise" (in the ball of the best distance; for a walk along
            the boundary anywhere in the box), "middle" (of the box), "best" (known so
            far) or "here" (where the leg before it ended).
        way: Aim at the way to meet the criterion that comes at this place, nearest
            first, as the margins at the original have it; None: at whichever is
            nearest at the time.
        along: None: a descent in a ball that shrinks. Else a walk along the boundary,
            with this first trust radius as a share of the perturbation's L2 length.
        stepsize: First step of a descent, as a share of the ball. It falls to 0.02.
        gamma: First change of its radius, as a share of it. It falls to 0.002.
    """

    length: float
    norm: str | None = None
    start: str = "origin"
    way: int | None = None
    along: float | None = None
    stepsize: float = 1.0
    gamma: float = 0.1


# First trust radius. Few and large changes of single features need most.
_WIDE = {"linf": 0.5, "l2": 0.5, "l1": 1.0, "l0": 1.0}
# Steps that a round is worth, and the most rounds; then legs get longer.
_ROUND, _MOST = 45, 12
# Of all steps for the last two legs.
_LAST = 0.22


@functools.cache
def plan(norm: str, steps: int) -> tuple[Leg, ...]:
    """The legs that suit a norm and so many steps.

    Each round is a tour (by way of a ball in Linf, and of L2 for the sparser norms) to
    another way, and a walk from another end of the box. In the end the best point is
    walked on from. More steps make more rounds rather than longer legs.
    """
    wide = _WIDE[norm]
    rounds = min(max(round(steps / _ROUND), 1), _MOST)
    legs = []
    for place in range(rounds):
        legs += _tour(norm, place, wide)
        start = ("middle", "origin")[place] if place < 2 else "noise"
        legs.append(Leg(12, start=start, along=wide))
        if norm == "l0" and rounds > 7 and place < 4:
            # Where nothing bends, the straight way is the best one.
            legs.append(Leg(10, way=place or None))
        if place:
            legs.append(Leg(12, start="best", along=wide / 2))
    half = sum(leg.length for leg in legs) * _LAST / (1 - _LAST) / 2
    legs.append(Leg(half, start="best", along=wide / 2))
    if norm == "l0":
        return (*legs, Leg(half, start="best", stepsize=0.3))
    return (*legs, Leg(half, start="best", along=wide / 5))


def _tour(norm: str, place: int, wide: float) -> list[Leg]:
    """From the original to one way, the next likely one each time."""
    way = place or None
    if norm == "linf":
        return [Leg(10, start="noise" if place else "origin", way=way)]
    legs = [Leg(5, "linf", way=way)]
    if norm != "l2":
        legs.append(Leg(5, "l2", "here", along=1.0))
    return [*legs, Leg(10, start="here", along=wide)]
