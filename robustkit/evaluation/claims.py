"""What a run claims, and whether it holds."""

from dataclasses import dataclass, field

__all__ = ["Claim"]


@dataclass
class Claim:
    """Something a run says, and what came of checking it.

    Attributes:
        name: What is claimed.
        checked: How many numbers or samples were looked at.
        broken: Where it does not hold, a sentence each.
        notes: What else should be known about it, a sentence each.
    """

    name: str
    checked: int = 0
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.broken

    def expect(self, holds: bool, otherwise: str) -> None:
        """Count one check, and note what is wrong if it does not hold."""
        self.checked += 1
        if not holds:
            self.broken.append(otherwise)
