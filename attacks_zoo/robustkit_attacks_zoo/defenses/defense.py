"""What a defense is made of, and what an attack on it leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from robustkit import demo
from torch import Tensor, nn

__all__ = ["Attack", "Defense", "digits"]

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
    not rejected. Where the defense draws random numbers, most of `votes` draws decide.

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
        votes: Draws that decide; 1: the defense is not random.
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
        """(n,) whether inputs are classified correctly and accepted, by the votes."""
        self.forget()
        return self._vote(x, lambda labels: labels == y)

    def broken(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) whether inputs are misclassified and accepted, by the votes."""
        return self._vote(x, lambda labels: labels != y)

    def samples(self, count: int) -> tuple[Tensor, Tensor]:
        """The first test inputs that are classified correctly and accepted."""
        x, y = self.data()
        kept = self.right(x, y).nonzero()[:count, 0]
        return x[kept], y[kept]

    def claim(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) what the weak evaluation breaks."""
        self.forget()
        return self.broken(self.weak(self.seen or self.model, x, y), y)

    def truth(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) what the weak evaluation or the attack written by hand breaks."""
        claimed = self.claim(x, y)
        self.forget()
        return claimed | self.broken(self.adaptive(x, y), y)

    def accepted(self, x: Tensor) -> Tensor:
        """(n,) whether one draw of the detector accepts inputs."""
        if self.detector is None:
            return torch.ones(len(x), dtype=torch.bool)
        with torch.no_grad():
            accepted: Tensor = self.detector(x) <= 0
        return accepted

    def _vote(self, x: Tensor, wanted: Callable[[Tensor], Tensor]) -> Tensor:
        ayes = torch.zeros(len(x), dtype=torch.int64)
        for _ in range(self.votes):
            with torch.no_grad():
                logits = self.model(x)
            # The same score for all classes is no answer.
            answered = logits.amax(1) > logits.amin(1)
            ayes += wanted(logits.argmax(1)) & answered & self.accepted(x)
        return 2 * ayes > self.votes
