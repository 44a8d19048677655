"""Bounds on what a network gives within a region: by intervals, or linear functions.

Zhang, Weng, Chen, Hsieh, Daniel: Efficient Neural Network Robustness Certification with
General Activation Functions, NeurIPS 2018 (CROWN): each ReLU is put between two lines,
and a linear function of the output is followed back to the input, where its least value
in the region is known.

*Differences from the paper.* Bounds before the ReLUs are the tighter ones of these and
of interval arithmetic. The ball is cut to the box of valid inputs. Skip connections are
followed back along both ways. What rounding in double precision can do is taken
off, so that bounds are those of the network in exact arithmetic.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from robustkit.certify.networks import INPUT, Piece, ReluGraph
from robustkit.certify.regions import Region

__all__ = ["METHODS", "Method", "least_values"]

Method: TypeAlias = Literal["interval", "crown"]
METHODS: tuple[Method, ...] = ("interval", "crown")

_AT_ONCE = 16_000_000
"""So many numbers are worked on at once, at most."""

Ends: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def least_values(
    graph: ReluGraph, region: Region, rows: torch.Tensor, method: Method = "crown"
) -> torch.Tensor:
    """(m,) below which no linear function of the output falls in a region.

    Args:
        graph: The network.
        region: Of inputs.
        rows: (m, outputs) the functions, in double precision.
        method: "interval": intervals before every ReLU; "crown": linear bounds, never
            looser, at the cost of some passes for each neuron whose sign is not known.

    >>> from robustkit.certify.networks import follow
    >>> from robustkit.models.torch import TorchModel
    >>> net = torch.nn.Linear(2, 2).eval()
    >>> graph = follow(TorchModel(net), torch.zeros(1, 2))
    >>> x = torch.tensor([0.5, 0.5], dtype=torch.float64)
    >>> rows = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    >>> exact = rows @ graph.values(x[None])[-1][0]
    >>> wide = least_values(graph, Region(x, "linf", 0.1, 0, 1), rows)
    >>> bool((wide < exact).all())
    True
    """
    looser, tighter = _Known(graph, region), _Known(graph, region)
    for piece in graph.pieces[:-1]:
        looser.ends.append(_interval(piece, looser))
        if method == "crown":
            ends = _interval(piece, tighter)
            ends = (
                torch.maximum(ends[0], looser.ends[-1][0]),
                torch.minimum(ends[1], looser.ends[-1][1]),
            )
            tighter.ends.append(_tightened(piece, tighter, ends))
    last = graph.pieces[-1]
    least = _by_intervals(last, looser, rows)
    if method == "crown":
        near = _by_intervals(last, tighter, rows)
        far = _by_lines(last, tighter, rows)
        least = torch.maximum(least, torch.maximum(near, far))
    return least


@dataclass
class _Known:
    """What is known so far of the values before each ReLU.

    Attributes:
        graph: The network.
        region: Of inputs.
        ends: Flat, by number.
        sizes: Flat, of all that is added up to get the values, by piece.
    """

    graph: ReluGraph
    region: Region
    ends: list[Ends] = field(default_factory=list)
    sizes: dict[Piece, torch.Tensor] = field(default_factory=dict)

    def given(self, source: int) -> Ends:
        """Flat ends of what a source gives."""
        if source == INPUT:
            return self.region.box()
        low, high = self.ends[source]
        return low.relu(), high.relu()

    def size(self, piece: Piece) -> torch.Tensor:
        """Of all that is added up to get a piece, flat; once all before is known."""
        if piece in self.sizes:
            return self.sizes[piece]
        largest = (
            torch.maximum(low.abs(), high.abs()).reshape(shape)
            for shape, (low, high) in zip(
                piece.shapes, map(self.given, piece.sources), strict=True
            )
        )
        self.sizes[piece] = piece.size(*largest).reshape(-1)
        return self.sizes[piece]

    def lost(self, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """(m,) what rounding may change in rows of values of these sizes."""
        return self.graph.rounding * (rows.abs() @ sizes)


def _interval(piece: Piece, before: _Known) -> Ends:
    """Flat ends of a piece, from those of what goes into the ReLUs before it."""
    region, lost = before.region, before.graph.rounding * before.size(piece)
    if piece.sources == (INPUT,):
        # As tight as can be, for an affine function.
        slopes, columns = piece.rows
        middle = (slopes * region.x[columns]).sum(dim=1) + piece.offset.reshape(-1)
        return (
            middle + region.least(slopes, columns) - lost,
            middle - region.least(-slopes, columns) + lost,
        )
    middles, radii = [], []
    for source, shape in zip(piece.sources, piece.shapes, strict=True):
        low, high = before.given(source)
        middles.append(((low + high) / 2).reshape(shape))
        radii.append(((high - low) / 2).reshape(shape))
    middle, radius = piece(*middles).reshape(-1), piece.spread(*radii).reshape(-1)
    return middle - radius - lost, middle + radius + lost


def _tightened(piece: Piece, before: _Known, ends: Ends) -> Ends:
    """Better ends for the neurons whose sign is not known."""
    low, high = ends[0].clone(), ends[1].clone()
    if piece.sources == (INPUT,):
        return low, high
    open_ones = torch.nonzero((low < 0) & (high > 0)).reshape(-1)
    if len(open_ones) == 0:
        return low, high
    unit = torch.zeros(len(open_ones), len(low), dtype=torch.float64)
    unit[torch.arange(len(open_ones)), open_ones] = 1.0
    below = _in_parts(unit, piece, lambda r: _by_lines(piece, before, r))
    above = -_in_parts(unit, piece, lambda r: _by_lines(piece, before, -r))
    low[open_ones] = torch.maximum(low[open_ones], below)
    high[open_ones] = torch.minimum(high[open_ones], above)
    return low, high


def _in_parts(rows: torch.Tensor, piece: Piece, bound: object) -> torch.Tensor:
    widest = max(shape.numel() for shape in (*piece.shapes, piece.offset.shape))
    size = max(_AT_ONCE // widest, 1)
    assert callable(bound)
    return torch.cat([bound(part) for part in torch.split(rows, size)])


def _by_intervals(piece: Piece, before: _Known, rows: torch.Tensor) -> torch.Tensor:
    """(m,) bounds on rows of a piece, with the ReLUs before it as free as can be."""
    region = before.region
    bound = rows @ piece.offset.reshape(-1) - before.lost(rows, before.size(piece))
    for source, slopes in piece.back(rows).items():
        if source == INPUT:
            bound = bound + slopes @ region.x + region.least(slopes)
        else:
            low, high = before.given(source)
            bound = bound + slopes.clamp(min=0) @ low + slopes.clamp(max=0) @ high
    return bound


def _by_lines(piece: Piece, before: _Known, rows: torch.Tensor) -> torch.Tensor:
    """(m,) bounds on rows of a piece, followed back to the input."""
    region = before.region
    bound = rows @ piece.offset.reshape(-1) - before.lost(rows, before.size(piece))
    pending = piece.back(rows)
    while max(pending) != INPUT:
        number = max(pending)
        earlier = before.graph.pieces[number]
        slopes = pending.pop(number)
        low, high = before.ends[number]
        # Above: the line through both ends. Below: the nearer one of 0 and the input.
        on = low >= 0
        # What is not a number is open, and then the bound is no number either.
        open_ones = ~(on | (high <= 0))
        width = torch.where(open_ones, high - low, 1.0)
        above = torch.where(open_ones, high / width, on.to(low.dtype))
        below = torch.where(open_ones, high >= -low, on).to(low.dtype)
        lift = torch.where(open_ones, -low * high / width, 0.0)
        falling = slopes.clamp(max=0)
        # Of these lines, and of the way through the piece before.
        bound = bound + falling @ lift - before.lost(slopes, before.size(earlier))
        slopes = slopes.clamp(min=0) * below + falling * above
        bound = bound + slopes @ earlier.offset.reshape(-1)
        for source, some in earlier.back(slopes).items():
            pending[source] = pending[source] + some if source in pending else some
    slopes = pending[INPUT]
    farthest = torch.maximum(*(end.abs() for end in region.box()))
    return (
        bound + slopes @ region.x + region.least(slopes) - before.lost(slopes, farthest)
    )
