"""Natural images of other classes, for attacks that imitate them."""

import torch
from torch import Tensor, nn

__all__ = ["naturals"]


def naturals(
    net: nn.Module, images: Tensor, x: Tensor, y: Tensor, count: int = 5
) -> Tensor:
    """Where the images are that are taken for another class than y, the nearest first.

    Args:
        net: To logits or features (m, classes).
        images: (m, ...) that the attacker has.
        x: (n, ...) the originals.
        y: (n,) their labels.
        count: Images per original.

    Returns:
        (n, count) positions in the images.
    """
    with torch.no_grad():
        label = net(images).argmax(1)
    apart = torch.cdist(x.flatten(1), images.flatten(1))
    apart[label[None] == y[:, None]] = torch.inf
    return apart.topk(count, dim=1, largest=False).indices
