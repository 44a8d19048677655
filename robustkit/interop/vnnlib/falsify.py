"""Looking for an input that meets a spec, with attacks."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robustkit.arguments import as_seconds, as_seed, as_whole
from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.pgd import PGD
from robustkit.attacks.score.square import Square
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, MissingPackage
from robustkit.interop.vnnlib.specs import Case, Region, Spec, read_spec
from robustkit.models.base import Access, Model, PullBack
from robustkit.models.numpy import NumPyModel
from robustkit.models.onnx import OnnxModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import (
    Array,
    Batch,
    PerSample,
    Tensor,
    like,
    to_numpy,
)

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackage(str(error.name), "onnx", "a VNN-LIB problem") from error

__all__ = ["Answer", "falsify"]

_STARTS = 16
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass(frozen=True)
class Answer:
    """What came of a problem.

    Attributes:
        verdict: "sat": there is such an input, the witness; "unknown": none was found,
            which proves nothing. "unsat": the spec contradicts itself.
        x: (inputs,) the witness, float64, within its box without any tolerance; or
            None.
        y: (outputs,) what onnxruntime gives for it, or None.
        exact: Whether the witness is to the last digit what the network is shown. Not
            so only where a side of the box holds no number of the network's precision,
            such as the single point 0.1: it then is shown the nearest one.
        rounds: Of attacks.
        seconds: How long it took.
    """

    verdict: Literal["sat", "unsat", "unknown"]
    x: Array | None
    y: Array | None
    exact: bool
    rounds: int
    seconds: float

    def text(self) -> str:
        """As the competition wants it: the verdict, and the witness below."""
        if self.x is None or self.y is None:
            return f"{self.verdict}\n"
        values = [f"(X_{i} {float(v)!r})" for i, v in enumerate(self.x)]
        values += [f"(Y_{i} {float(v)!r})" for i, v in enumerate(self.y)]
        return f"{self.verdict}\n(" + "\n".join(values) + ")\n"


def falsify(
    model: str | Path,
    spec: str | Path | Spec,
    *,
    timeout: float = 60.0,
    rounds: int = 40,
    seed: int = 0,
) -> Answer:
    """Look for an input that meets a spec.

    The margin to be brought below zero is the largest by which an output constraint is
    missed, in the case that is nearest to be met. PGD from the middle of the box; then
    PGD and APGD in turn from random points and corners, towards all cases and towards
    one after the other. For networks without gradients, Square instead of these. A
    point counts only if it lies in the box and onnxruntime's outputs for it meet every
    constraint, both without tolerance. Points are made of numbers of the network's own
    precision (`Answer.exact`), so what was asked about is what was seen.

    Args:
        model: An ONNX file of one input and one output.
        spec: A VNN-LIB file, or what `read_spec` made of one.
        timeout: Seconds after which no new round is begun.
        rounds: Of attacks, at most, for each box.
        seed: Of the random points.

    Raises:
        BadInput: A file cannot be read, or network and spec do not fit together.
    """
    started = time.monotonic()
    timeout, seed = as_seconds(timeout, "the timeout"), as_seed(seed)
    rounds = as_whole(rounds, "the number of rounds", least=1)
    asked = spec if isinstance(spec, Spec) else read_spec(spec)
    network = _Network(model, asked)
    tried = 0

    def answer(verdict: Any, x: Array | None = None, y: Array | None = None) -> Answer:
        exact = x is None or network.sees(x)
        return Answer(verdict, x, y, exact, tried, time.monotonic() - started)

    if not asked.regions:
        return answer("unsat")
    searches = [_search(network, region, rounds, seed) for region in asked.regions]
    while searches:
        # In turn, so that no box keeps the others waiting.
        for search in list(searches):
            points = next(search, None)
            if points is None:
                searches.remove(search)
                continue
            tried += 1
            for x in points:
                y = network.outputs(x)
                if asked.holds(x, y):
                    return answer("sat", x, y)
            if time.monotonic() - started > timeout:
                return answer("unknown")
    return answer("unknown")


class _Network:
    """A network that is asked about flat inputs, in double precision outside."""

    def __init__(self, path: str | Path, spec: Spec) -> None:
        self.model = OnnxModel(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()
        names = [f"'{entry.name}'" for entry in self._session.get_outputs()]
        if len(names) != 1:
            raise BadInput(
                f"expected an ONNX network of one output; '{self.model.name}' has "
                f"{len(names)}: {', '.join(names)}. Export it with the one that the "
                "spec speaks of"
            )
        self._dtype = _DTYPES.get(self._input.type, np.float16)
        self.shape = self._shape(spec.inputs)
        got = len(self.outputs(np.zeros(spec.inputs)))
        if got != spec.outputs:
            raise BadInput(
                f"the spec declares {spec.outputs} outputs Y, and the network "
                f"'{self.model.name}' has {got}"
            )

    def outputs(self, x: Array) -> Array:
        """(outputs,) of one flat input, as onnxruntime says."""
        given = x.astype(self._dtype).reshape(self.shape)
        if self._rows is not None:
            given = np.stack([given] * self._rows)
        out = self._session.run(None, {self._input.name: given})[0]
        # A network saved for several inputs is shown the same one in every row.
        out = out[:1] if (self._rows or 1) > 1 else out
        return np.asarray(out, dtype=np.float64).reshape(-1)

    def sees(self, x: Array) -> bool:
        """Whether it is shown a flat input as it is, without rounding."""
        return bool((x.astype(self._dtype) == x).all())

    def nearest(self, x: Array, lower: Array, upper: Array) -> Array:
        """What is within a box and as near to a flat input as its precision allows.

        Args:
            x: (inputs,) in double precision.
            lower: (inputs,) of the box.
            upper: (inputs,) of the box.
        """
        low, high = lower.astype(self._dtype), upper.astype(self._dtype)
        up, down = np.nextafter(low, np.inf), np.nextafter(high, -np.inf)
        low, high = np.where(low < lower, up, low), np.where(high > upper, down, high)
        seen = np.clip(x.astype(self._dtype), low, high).astype(np.float64)
        # Without such a number in it, the box goes before.
        return np.where(low <= high, seen, np.clip(x, lower, upper))

    def _shape(self, inputs: int) -> tuple[int, ...]:
        """Of one input, without the batch axis."""
        sizes = [n if isinstance(n, int) and n > 0 else 1 for n in self._input.shape]
        self._rows = sizes[0] if len(sizes) > 1 else None
        shape = tuple(sizes if self._rows is None else sizes[1:])
        if int(np.prod(shape)) != inputs:
            raise BadInput(
                f"the spec declares {inputs} inputs X, and the network "
                f"'{self.model.name}' takes inputs of shape {shape}"
            )
        return shape


class _Boxed(Model):
    """The network on the unit box instead of the box of the spec."""

    def __init__(self, network: _Network, region: Region) -> None:
        self.bounds, self.name = Bounds(), network.model.name
        self._network, self._shape = network, network.shape
        self._lower = region.lower.reshape(network.shape)
        self._width = (region.upper - region.lower).reshape(network.shape)
        self._ends = region.lower, region.upper
        self._inner: Model = network.model
        if not self._agrees(network):
            self._inner = NumPyModel(
                lambda x: np.stack([network.outputs(row.reshape(-1)) for row in x])
            )
        self.access = self._inner.access

    def _agrees(self, network: _Network) -> bool:
        """Whether the model shows the outputs that the spec speaks of.

        It leaves out a last softmax, and takes networks with one row per input only.
        """
        middle = np.full((1, *self._shape), 0.5, dtype=np.float32)
        expected = network.outputs(self.point(middle[0]))
        try:
            seen = to_numpy(self.logits(self.to_tensor(middle)))
        except BadInput:
            return False
        return seen.shape == (1, len(expected)) and np.allclose(
            seen[0], expected, rtol=1e-3, atol=1e-4
        )

    def point(self, z: Array) -> Array:
        """(inputs,) float64, within the box, where a point (...) of the unit box is."""
        x = self._lower + self._width * z.astype(np.float64)
        return self._network.nearest(x.reshape(-1), *self._ends)

    def logits(self, x: Batch) -> Tensor:
        return self._inner.logits(self._moved(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._inner.linearise(self._moved(x))
        width = like(x, self._width.astype(to_numpy(x).dtype))
        return logits, lambda slopes: pull_back(slopes) * width

    def to_tensor(self, x: Array) -> Batch:
        return self._inner.to_tensor(x)

    def _moved(self, x: Batch) -> Batch:
        values = to_numpy(x)
        moved = self._lower + self._width * values.astype(np.float64)
        return like(x, moved.astype(values.dtype))


class _Cases:
    """The cases of a region, with rows of one length; no dataclass, so kept whole."""

    def __init__(self, cases: tuple[Case, ...]) -> None:
        self.parts = []
        for case in cases:
            size = np.linalg.norm(case.slopes, axis=1)
            size = np.where(size > 0, size, 1.0)
            self.parts.append((case.slopes / size[:, None], case.levels / size))

    def missed(self, y: Array) -> tuple[Array, Array]:
        """By how much each case is missed (n, cases), and the slopes of that.

        Args:
            y: (n, outputs).
        """
        by, slopes = [], []
        for rows, levels in self.parts:
            if len(levels) == 0:
                # Any output will do.
                by.append(np.full(len(y), -1.0))
                slopes.append(np.zeros_like(y))
                continue
            excess = y @ rows.T - levels
            worst = excess.argmax(axis=1)
            by.append(excess[np.arange(len(y)), worst])
            slopes.append(rows[worst])
        return np.stack(by, axis=1), np.stack(slopes, axis=1)


@dataclass(frozen=True, eq=False)
class _Meets(Criterion):
    """Outputs that meet a case: the margin is by how much the nearest one is missed.

    Args:
        cases: Any of which will do.
    """

    cases: _Cases

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return self.slopes_of(logits, self.ways(logits).argmin(axis=1))

    def margin(self, logits: Tensor) -> PerSample:
        return self.ways(logits).min(axis=1)

    def ways(self, logits: Tensor) -> Tensor:
        values = to_numpy(logits)
        missed, _ = self.cases.missed(values.astype(np.float64))
        return like(logits, missed.astype(values.dtype))

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        values = to_numpy(logits)
        missed, slopes = self.cases.missed(values.astype(np.float64))
        rows, chosen = np.arange(len(values)), to_numpy(way)
        return (
            like(logits, missed[rows, chosen].astype(values.dtype)),
            like(logits, slopes[rows, chosen].astype(values.dtype)),
        )


def _search(
    network: _Network, region: Region, rounds: int, seed: int
) -> Iterator[list[Array]]:
    """Round by round, the points (inputs,) that may be answers."""
    model = _Boxed(network, region)
    rng = np.random.default_rng(seed)
    every = _Cases(region.cases)
    single = [_Cases((case,)) for case in region.cases]
    for number in range(rounds):
        if number == 0:
            starts, goal = np.full((1, *network.shape), 0.5), every
        else:
            starts = rng.random((_STARTS, *network.shape))
            starts[::2] = starts[::2].round()
            # All cases, then one after the other, then all again.
            turn = (number - 1) % (len(single) + 1) if len(single) > 1 else 0
            goal = single[turn - 1] if turn else every
        problem = Problem(
            model,
            model.to_tensor(starts.astype(np.float32)),
            _Meets(goal),
            get_norm("linf"),
            seed=(seed + number) % 2**63,
        )
        ledger = run(_attack(model, number), problem)
        # Where none was found, the start: it may lie on the very edge of a case.
        yield [model.point(z) for z in to_numpy(ledger.best)]


def _attack(model: Model, number: int) -> Attack[Any]:
    """What to try in a round; a ball of radius 1 holds the box whatever the start."""
    if model.access < Access.GRADIENT:
        return Square(epsilon=1.0, steps=500)
    if number % 2 == 0:
        return PGD(epsilon=1.0 if number else 0.5, steps=50)
    return APGD(epsilon=1.0, steps=100, loss="margin")
