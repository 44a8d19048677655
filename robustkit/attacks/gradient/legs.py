"""What a relay is made of: its legs, and the plan that suits a norm and a budget."""

import functools
from dataclasses import dataclass

from robustkit.arguments import as_flag, as_number, as_whole
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.norms import get_norm

__all__ = ["Leg", "last_walks", "plan"]


@dataclass(frozen=True)
class Leg:
    """One short walk of a relay.

    Attributes:
        length: Its share of the steps, in any unit.
        norm: In whose geometry it walks; None: the problem's.
        start: "origin", "noise" (in the ball of the best distance; for a walk along
            the boundary anywhere in the box), "middle" (of the box), "best" (known so
            far), "here" (where the leg before it ended) or "kept" (the best start that
            legs since the last such one have kept for it).
        way: Aim at the way to meet the criterion that comes at this place, nearest
            first, as the margins at the original have it; None: at whichever is
            nearest at the time.
        along: None: a descent in a ball that shrinks. Else a walk along the boundary,
            with this first trust radius as a share of the perturbation's L2 length.
        exchange: Not to walk but to exchange features, by the steps of `Greedy`; for
            L0 only, from "origin", "here" or "best".
        stepsize: First step of a descent, as a share of the ball, or what an unchanged
            feature counts for at first. It falls to 0.02.
        gamma: First change of its radius, as a share of it. It falls to 0.002.
        keep: Whether a walk along the boundary keeps the nearest adversarial it meets,
            known or not, as a start.
        tries: 0: a walk. Else a search for a start to keep, in the problem's norm, with
            so many questions for each try; `way` is then by margin at the best point.

    Raises:
        BadInput: One of them is something else.
    """

    length: float
    norm: str | None = None
    start: str = "origin"
    way: int | None = None
    along: float | None = None
    exchange: bool = False
    stepsize: float = 1.0
    gamma: float = 0.1
    keep: bool = False
    tries: int = 0

    def __post_init__(self) -> None:
        as_number(self.length, "the length of a leg", above=0)
        if self.norm is not None:
            get_norm(self.norm)
        if self.start not in _STARTS:
            raise BadInput(
                f"unknown start '{self.start}' of a leg; "
                f"{suggestion(self.start, _STARTS)}"
            )
        if self.way is not None:
            as_whole(self.way, "the way of a leg", least=0)
        if self.along is not None:
            as_number(self.along, "the first trust radius of a leg", above=0)
        as_number(self.stepsize, "the stepsize of a leg", above=0)
        as_number(self.gamma, "the gamma of a leg", above=0)
        as_flag(self.exchange, "the exchange of a leg")
        as_flag(self.keep, "the keep of a leg")
        as_whole(self.tries, "the tries of a leg", least=0)


_STARTS = ("origin", "noise", "middle", "best", "here", "kept")
# First trust radius. Few and large changes of single features need most.
_WIDE = {"linf": 0.5, "l2": 0.5, "l1": 1.0, "l0": 1.0}
# Steps that a round is worth, and the most rounds; then legs get longer. The first
# three are worth less in the norms that are walked in without a detour.
_ROUND, _MOST = 45, 12
_BRISK = 32
# Fewer are too few for a round and what follows it; and where there is a single way,
# which every round would have to begin anew.
_SHORT = {"linf": 46, "l2": 46, "l1": 68, "l0": 29}
_SHORT_ALONE = {"linf": 250, "l2": 120, "l1": 250, "l0": 100}
# Fewer are too few for more than one start.
_FEW = {"linf": 5, "l2": 14, "l1": 16, "l0": 12}
# Of them in the Linf ball, on the way to L1 and L0.
_BALL = 5
# Of all steps for the last two legs.
_LAST = 0.22
# From so many steps on there are fewer rounds, with searches for starts; and the steps
# that each of these rounds is worth.
_MANY, _RICH = 600, {"linf": 120, "l2": 96}


@functools.cache
def plan(norm: str, steps: int, alone: bool = False) -> tuple[Leg, ...]:
    """The legs that suit a norm and so many steps.

    `alone`: there is a single way to meet the criterion.

    Each round is a tour (by way of a ball in Linf, and then of L2 or L1 for the sparser
    norms) to another way, and a walk from another end of the box. In the end the best
    point is walked on from; for L0 its features are exchanged after each round. More
    steps make more rounds rather than longer legs; with few there is none, but two or
    three walks. With many steps in Linf and L2 these find little more after
    a while, and searches for starts (`Leg.tries`) take the place of some.
    """
    wide = _WIDE[norm]
    if steps < _FEW[norm]:
        return _straight(norm, wide)
    if norm in _RICH and steps >= _MANY:
        rounds = min(round(steps / _RICH[norm]), _MOST)
        legs = _rich_linf(rounds, wide) if norm == "linf" else _rich_l2(rounds, wide)
        return _ended(legs, norm)
    if steps < (_SHORT_ALONE if alone else _SHORT)[norm]:
        return _dash(norm, steps, wide)
    rounds = min(max(round(steps / _ROUND), 1), _MOST)
    if norm in _RICH:
        rounds = max(rounds, min(round(steps / _BRISK), 3))
    legs = []
    for place in range(rounds):
        start = ("middle", "origin")[place] if place < 2 else "noise"
        legs += _tour(norm, place, wide)
        legs.append(Leg(10 if norm == "l0" else 12, start=start, along=wide))
        if norm == "l0":
            legs.append(_exchange(6, "here"))
            if rounds > 7 and place < 4:
                # Where nothing bends, the straight way is the best one.
                legs.append(Leg(10, way=place or None))
            if place:
                legs.append(_exchange(10, "best"))
        elif place:
            legs.append(Leg(12, start="best", along=wide / 2))
    return tuple(legs) if norm == "l0" else _ended(legs, norm)


def last_walks(norm: str, length: float = 1.0) -> tuple[Leg, Leg]:
    """On from the best point, the second more cautious; of such a length each."""
    wide = _WIDE[norm]
    return (
        Leg(length, start="best", along=wide / 2),
        Leg(length, start="best", along=wide / 5),
    )


def _ended(legs: list[Leg], norm: str) -> tuple[Leg, ...]:
    """The legs, and the last two."""
    half = sum(leg.length for leg in legs) * _LAST / (1 - _LAST) / 2
    return (*legs, *last_walks(norm, half))


def _straight(norm: str, wide: float) -> tuple[Leg, ...]:
    """From the original, and then from the best point, or noise where none is known."""
    if norm == "l0":
        return _exchange(1, "origin"), _exchange(1, "best")
    return Leg(1, along=wide), Leg(1, start="best", along=wide / 2)


def _dash(norm: str, steps: int, wide: float) -> tuple[Leg, ...]:
    """A tour, a walk from elsewhere, and one from the best point; all short.

    The last is not divided in two, since a walk that begins anew asks about the best
    point once more.
    """
    if norm == "linf":
        return (
            Leg(0.32 * steps),
            Leg(0.32 * steps, start="middle", along=wide),
            Leg(0.36 * steps, start="best", along=wide / 2),
        )
    if norm == "l2":
        return (
            Leg(0.11 * steps, "linf"),
            Leg(0.22 * steps, start="here", along=wide),
            Leg(0.32 * steps, start="middle", along=wide),
            Leg(0.35 * steps, start="best", along=wide / 2),
        )
    # What lies near in Linf gets no nearer to a sparse one with more steps.
    first = min(_BALL, 0.2 * steps)
    rest = steps - first
    # A walk may get lost, so there is a second one from elsewhere.
    if norm == "l0":
        return (
            Leg(first, "linf"),
            Leg(0.33 * rest, "l1", "here", along=1.0),
            _exchange(0.28 * rest, "here"),
            Leg(0.28 * rest, start="middle", along=wide),
            _exchange(0.11 * rest, "here"),
        )
    # The longer a walk, the smaller its first steps may be and still come home: as ever
    # with 18 steps and fewer, a share of 0.4 of that from the middle with 26 and more.
    share = min(max((30 - rest) / 12, 0.4), 1.0)
    cautious = (0.6 + 0.4 * share) * wide
    return (
        Leg(first, "linf"),
        Leg(0.3 * rest, start="here", along=cautious),
        Leg(0.3 * rest, start="middle", along=share * wide),
        Leg(0.4 * rest, start="best", along=cautious / 2),
    )


def _rich_linf(rounds: int, wide: float) -> list[Leg]:
    """Walks from the ends of the box pay at first only, searches always."""
    legs = []
    for place in range(rounds):
        legs += _tour("linf", place, wide)
        if place < 3:
            start = ("middle", "origin", "noise")[place]
            legs.append(Leg(12, start=start, along=wide))
        if place:
            legs += _search(32, place - 1, wide)
            legs.append(Leg(12, start="best", along=wide / (4 if place % 2 else 2)))
    return legs


def _rich_l2(rounds: int, wide: float) -> list[Leg]:
    """Tours pay at first only, walks from noise always; the better of two goes on."""
    legs = []
    for place in range(rounds):
        if place < 4:
            legs += _tour("l2", place, wide)
        if place < 2:
            legs.append(Leg(12, start=("middle", "origin")[place], along=wide))
        else:
            legs += [Leg(9, start="noise", along=wide, keep=True)] * 2
            legs.append(Leg(12, start="kept", along=wide / 2))
        if place and place % 3 == 0:
            legs += _search(24, place // 3 - 1, wide)
        if place:
            legs.append(Leg(12, start="best", along=wide / 2))
    return legs


def _search(length: float, number: int, wide: float) -> list[Leg]:
    """A search for a start, now to the nearest way, now to the next; a walk from it."""
    return [
        Leg(length, way=number % 2, tries=4),
        Leg(12, start="kept", along=wide / 2),
    ]


def _tour(norm: str, place: int, wide: float) -> list[Leg]:
    """From the original to one way, the next likely one each time."""
    way = place or None
    if norm == "linf":
        return [Leg(10, start="noise" if place else "origin", way=way)]
    if norm == "l0":
        return [
            Leg(4, "linf", way=way),
            Leg(10, "l1", "here", along=1.0),
            _exchange(10, "here"),
        ]
    legs = [Leg(5, "linf", way=way)]
    if norm == "l1":
        legs.append(Leg(5, "l2", "here", along=1.0))
    return [*legs, Leg(10, start="here", along=wide)]


def _exchange(length: float, start: str) -> Leg:
    """Features come and go, fewer of them where the best point is started from."""
    share, gamma = (0.3, 0.1) if start == "best" else (0.5, 0.2)
    return Leg(length, start=start, exchange=True, stepsize=share, gamma=gamma)
