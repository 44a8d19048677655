"""What a defense is made of, and what an attack on it leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from robustkit import demo
from robustkit.evaluation.verify import held
from torch import Tensor, nn

__all__ = ["DRAWS", "Attack", "Defense", "digits"]

DRAWS = 50
"""Of a random defense, that decide whether an input breaks it."""

Attack = Callable[[Any, Tensor, Tensor], Tensor]
"""From a module, inputs (n, ...) and labels (n,) to perturbed inputs (n, ...)."""


def digits() -> tuple[Tensor, Tensor]:
    """The 355 test images (n, 1, 8, 8) in [0, 1] that nothing was trained on."""
    x, y = demo.load_data("digits")
    return torch.from_numpy(x), torch.from_numpy(y)


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A defense, the evaluation that made it look robust, and the one that broke it.

    A perturbed input within epsilon breaks the defense where it is misclassified and
    not rejected; where the defense draws random numbers, more often than not.

    Attributes:
        name: For commands and file names.
        title: For tables.
        source: The paper it is from.
        model: (n, ...) to logits (n, classes).
        weak: The evaluation in the style of the original.
        weak_title: What it is, in a few words.
        adaptive: The attack written by hand for this defense: labels as `weak`, but it
            knows the defense, so it is given no module.
        adaptive_title: What it is, in a few words.
        detector: (n, ...) to scores (n,), above 0 where an input is rejected.
        seen: What the weak evaluation differentiates in place of `model`: the same
            values another way back, or a network without its defense.
        norm: In which epsilon is measured.
        epsilon: The largest perturbation.
        votes: Draws by which attacks judge their points; 1: the defense is not random.
        bounds: Of valid inputs.
        data: Test inputs and labels.
        test: Settings of the active test, as for `robustkit.active_test`.
        thirteen: Whether it is one of those of Tramer et al.
    """

    name: str
    title: str
    source: str
    model: nn.Module
    weak: Attack
    weak_title: str
    adaptive: Callable[[Tensor, Tensor], Tensor]
    adaptive_title: str
    detector: nn.Module | None = None
    seen: nn.Module | None = None
    norm: str = "linf"
    epsilon: float = 0.15
    votes: int = 1
    bounds: tuple[float, float] = (0.0, 1.0)
    data: Callable[[], tuple[Tensor, Tensor]] = digits
    test: Mapping[str, Any] = field(default_factory=dict)
    thirteen: bool = True

    @property
    def remembers(self) -> bool:
        """Whether answers depend on earlier questions."""
        return hasattr(self.model, "forget")

    def forget(self) -> None:
        """Begin afresh, if it remembers questions."""
        if self.remembers:
            self.model.forget()  # type: ignore[operator]

    def right(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) whether inputs are classified correctly and accepted, by most votes."""
        self.forget()
        return 2 * self._count(x, lambda labels: labels == y, self.votes) > self.votes

    def broken(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) whether inputs are misclassified and accepted, in every vote.

        For attacks, to know when to stop.
        """
        return self._count(x, lambda labels: labels != y, self.votes) == self.votes

    def confirmed(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) whether inputs break the defense; the rule is robustkit's own.

        Of a random one: more often than not, at 95 % confidence, in `DRAWS` draws.
        """
        if self.votes == 1:
            return self.broken(x, y)
        count = self._count(x, lambda labels: labels != y, DRAWS)
        return torch.from_numpy(held(count.numpy(), DRAWS))

    def samples(self, count: int) -> tuple[Tensor, Tensor]:
        """The first test inputs that are classified correctly and accepted."""
        x, y = self.data()
        kept = self.right(x, y).nonzero()[:count, 0]
        return x[kept], y[kept]

    def claim(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) what the weak evaluation breaks."""
        self.forget()
        return self.confirmed(self.weak(self.seen or self.model, x, y), y)

    def truth(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) what the weak evaluation or the attack written by hand breaks."""
        claimed = self.claim(x, y)
        self.forget()
        return claimed | self.confirmed(self.adaptive(x, y), y)

    def accepted(self, x: Tensor) -> Tensor:
        """(n,) whether one draw of the detector accepts inputs."""
        if self.detector is None:
            return torch.ones(len(x), dtype=torch.bool)
        with torch.no_grad():
            accepted: Tensor = self.detector(x) <= 0
        return accepted

    def _count(
        self, x: Tensor, wanted: Callable[[Tensor], Tensor], votes: int
    ) -> Tensor:
        """(n,) in how many draws the predicted labels are as wanted, and accepted."""
        ayes = torch.zeros(len(x), dtype=torch.int64)
        for _ in range(votes):
            with torch.no_grad():
                logits = self.model(x)
            # The same score for all classes is no answer.
            answered = logits.amax(1) > logits.amin(1)
            ayes += wanted(logits.argmax(1)) & answered & self.accepted(x)
        return ayes
