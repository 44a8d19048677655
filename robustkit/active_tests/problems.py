"""Binary problems with known adversarials, and what attacks make of them."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustkit.active_tests.native import PlainAttack, attack_plainly
from robustkit.active_tests.readouts import Head, success
from robustkit.active_tests.verdict import ActiveTestResult, Verdict, decide
from robustkit.engine import loop
from robustkit.engine.attack import Attack, FixedBudget, edge
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.evaluation.curve import proportion
from robustkit.models.base import Model
from robustkit.models.isolated import raised_by
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, as_tensor, take, to_numpy
from robustkit.registry import choose_attacks

__all__ = ["Binarized"]

# Where rounding may have moved a point back over the threshold; shares of its distance.
_PUSHES = (0.0, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Binarized:
    """Binary problems with known adversarials, for any number of attacks.

    Attributes:
        model: From inputs to features (and a detector's score).
        x: (samples, ...) the originals.
        norm: In which distances are measured.
        epsilon: Radius that holds the witnesses.
        rows: (m,) the samples that have one.
        head: Of those m.
        witness: (m, ...) theirs.
        random: (m,) booleans: where random search succeeded.
        flaws: (samples,) why there is no witness; empty: there is.
        settings: What it was built with.
    """

    model: Model
    x: Array
    norm: Norm
    epsilon: float
    rows: Array
    head: Head
    witness: Array
    random: Array
    flaws: tuple[str, ...]
    settings: dict[str, Any]

    def test(
        self, attack: str | Attack[Any] | PlainAttack, *, budget: int | None = None
    ) -> ActiveTestResult:
        """Run an attack on the problems; see `active_test`."""
        label, chosen = self._chosen(attack, budget)
        count, x = len(self.x), self.x[self.rows]
        cost: dict[str, float | None] = {"forward": None, "backward": None}
        start = time.perf_counter()
        found = x
        if len(x) and isinstance(chosen, Attack):
            problem = self.problem()
            ledger = loop.run(chosen, problem, budget=budget)
            found = to_numpy(ledger.best)
            cost["forward"] = float(ledger.forwards.mean())
            cost["backward"] = float(ledger.backwards.mean())
        elif len(x):
            seed = self.settings["seed"]
            found = attack_plainly(chosen, self.model, self.head, x, seed)
        cost["seconds"] = (time.perf_counter() - start) / max(len(x), 1)
        holds, distance, flaws = self.verify(found)
        reasons = list(self.flaws)
        for row, flaw in zip(self.rows, flaws, strict=True):
            reasons[row] = flaw
        verdict, rule = decide(
            int(holds.sum()), int(self.random.sum()), len(self.rows), count
        )
        if verdict is Verdict.INVALID:
            flaw, often = Counter(filter(None, self.flaws)).most_common(1)[0]
            rule += f" (for {often} of them: {flaw})"
        raised = raised_by(self.model)
        if raised:
            rule += f"; where the model raised, nothing is adversarial ({raised})"
        return ActiveTestResult(
            verdict=verdict,
            rule=rule,
            success_rate=proportion(int(holds.sum()), len(self.rows)),
            random_rate=proportion(int(self.random.sum()), len(self.rows)),
            coverage=len(self.rows) / count,
            samples=count,
            success=self._spread(holds, np.zeros(count, dtype=bool)),
            random=self._spread(self.random, np.zeros(count, dtype=bool)),
            covered=self._spread(np.ones_like(holds), np.zeros(count, dtype=bool)),
            distance=self._spread(distance, np.full(count, np.inf)),
            witness=self._spread(self.witness, np.array(self.x)),
            reasons=tuple(reasons),
            settings={"attack": label, "budget": budget, **self.settings},
            cost=cost,
        )

    def verified(self) -> "Binarized":
        """Without the samples whose witness, or original, is not what it should be."""
        x = self.x[self.rows]
        every = np.arange(len(self.rows))
        flaws = list(self.flaws)
        if len(x):
            original = self.adversarial(x, every)
            _, _, doubts = self.verify(self.witness, pushes=(0.0,))
            for place, row in enumerate(self.rows):
                doubt = doubts[place] and f"the witness: {doubts[place]}"
                flaws[row] = "the original is class 1" if original[place] else doubt
        kept = np.flatnonzero([not flaws[row] for row in self.rows])
        return replace(
            self,
            rows=self.rows[kept],
            head=take(self.head, kept),
            witness=self.witness[kept],
            random=self.random[kept],
            flaws=tuple(flaws),
        )

    def problem(self) -> Problem:
        """The problems of the samples that have a witness, as attacks see them."""
        x = self.model.to_tensor(self.x[self.rows])
        goal = success(self.head.direction, self.head.detector)
        seed = self.settings["seed"]
        return Problem(self.model, x, goal, self.norm, seed=seed, head=self.head)

    def verify(
        self, points: Array, pushes: tuple[float, ...] = _PUSHES
    ) -> tuple[Array, Array, list[str]]:
        """Whether points, one for each sample with a witness, are adversarial.

        As in an evaluation, a point that rounding has moved back over the threshold is
        moved outwards by up to 0.1 % of its distance, within the ball.

        Returns:
            (m,) booleans, the distances (m,) in norm units, and what is wrong.
        """
        x = self.x[self.rows]
        if points.shape != x.shape:
            flaw = f"shape {points.shape} instead of {x.shape}"
            return np.zeros(len(x), bool), np.full(len(x), np.inf), [flaw] * len(x)
        distance = self._sizes(points, x)
        flaws = [self._flaw(points[i], distance[i]) for i in range(len(x))]
        sound = np.array([not flaw for flaw in flaws], dtype=bool)
        holds = np.zeros(len(x), dtype=bool)
        for push in pushes:
            asked = np.flatnonzero(sound & ~holds)
            tried = points[asked]
            if push:
                tried = x[asked] + (1 + push) * (tried - x[asked])
                tried = self._clip(tried.astype(x.dtype))
                within = self._sizes(tried, x[asked]) <= self._edge
                asked, tried = asked[within], tried[within]
            if len(asked):
                holds[asked] = self.adversarial(tried, asked)
        for row in np.flatnonzero(sound & ~holds):
            moved = distance[row] > 0
            flaws[row] = "no adversarial at a fresh pass" if moved else "nothing found"
        return holds, np.where(distance > 0, distance, np.inf), flaws

    def adversarial(self, points: Array, rows: Array) -> Array:
        """(k,) whether most of the votes take points for adversarial.

        Args:
            points: (k, ...) inputs.
            rows: (k,) whose they are, among the samples that have a witness.
        """
        head, x = take(self.head, rows), self.model.to_tensor(points)
        goal, votes = success(head.direction, head.detector), self.settings["votes"]
        ayes = np.zeros(len(points), dtype=np.int64)
        for _ in range(votes):
            ayes += to_numpy(goal.margin(head(self.model.logits(x)))) < 0
        return np.asarray(ayes * 2 > votes)

    @property
    def _edge(self) -> float:
        """The largest distance that counts as within epsilon."""
        reach = max(abs(self.model.bounds.lower), abs(self.model.bounds.upper))
        slack = float(np.finfo(self.x.dtype).eps) * reach
        one = np.full((1, *self.x.shape[1:]), slack)
        added = 0.0 if self.norm.name == "l0" else float(self._sizes(one, 0 * one)[0])
        return edge(self.epsilon) + added

    def _sizes(self, points: Array, x: Array) -> Array:
        delta = points.astype(np.float64) - x.astype(np.float64)
        return to_numpy(self.norm(as_tensor(delta)))

    def _flaw(self, point: Array, distance: float) -> str:
        bounds = self.model.bounds
        if not np.isfinite(point).all():
            return "not finite"
        if point.min() < bounds.lower or point.max() > bounds.upper:
            return "leaves the bounds"
        if distance > self._edge:
            return f"distance {distance:.6g}, farther than epsilon"
        return ""

    def _clip(self, points: Array) -> Array:
        return points.clip(self.model.bounds.lower, self.model.bounds.upper)

    def _spread(self, values: Array, empty: Array) -> Array:
        empty[self.rows] = values
        return empty

    def _chosen(self, attack: Any, budget: int | None) -> tuple[str, Any]:
        if isinstance(attack, str):
            access = self.model.access
            named = choose_attacks(attack, self.norm, access, budget, self.model)
            if len(named) != 1:
                raise BadInput(
                    f"an active test is of one attack; '{attack}' stands for "
                    f"{', '.join(named)}"
                )
            attack = next(iter(named.values()))
        if isinstance(attack, Attack):
            if isinstance(attack, FixedBudget) and not np.isclose(
                attack.epsilon, self.epsilon, rtol=1e-6
            ):
                raise BadInput(
                    f"the attack searches within {attack.epsilon:g}, the test is about "
                    f"adversarials within {self.epsilon:g}; give both the same epsilon"
                )
            return repr(attack), attack
        if not callable(attack):
            raise BadInput(
                "expected an attack, the name of one, or a function (model, x, y) to "
                f"adversarials; got a {type(attack).__name__}"
            )
        if budget is not None:
            raise BadInput(
                "the passes of a plain function are not counted, so a budget means "
                "nothing; leave it out"
            )
        return str(getattr(attack, "__name__", repr(attack))), attack
