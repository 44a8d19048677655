"""How inputs are put into a request, and what is left of them."""

import base64
import io
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Encoding", "Numbers", "Picture"]

# JPEG works on blocks of so many pixels a side.
_BLOCK = 8
# Nearly all images come to rest within so many generations; within so many more, blocks
# that do not are made ever flatter, since flat ones do.
_PATIENCE, _CALMING = 40, 64


class Encoding(Protocol):
    """From one input to what stands for it in JSON."""

    def shown(self, x: Array, bounds: Bounds) -> Array:
        """(n, ...) what the other side will see; encoding it again changes nothing."""

    def encode(self, x: Array, bounds: Bounds) -> Any:
        """One input (...) that has been through `shown`, as JSON."""


@dataclass(frozen=True)
class Numbers:
    """Nested lists of numbers, as they are."""

    def shown(self, x: Array, bounds: Bounds) -> Array:
        return x

    def encode(self, x: Array, bounds: Bounds) -> Any:
        return x.tolist()


@dataclass(frozen=True)
class Picture:
    """8-bit images as base64 text of a PNG or JPEG file.

    What is shown is always an image whose own file holds it unchanged, so who has the
    image alone can send the same again. A JPEG file seldom holds the image that it was
    made of: the image is compressed again until that changes nothing more, and blocks
    that never come to rest lose contrast until they do. Colours are kept at full
    resolution (4:4:4). An image may end farther from the one that was given where its
    sides are no multiples of 8.

    Args:
        kind: "png", which keeps every grey level, or "jpeg", which does not.
        quality: Of JPEG files, 1 to 100.
        channels_first: Whether inputs are (channels, height, width), else (height,
            width, channels). One channel is grey, three are red, green and blue.

    Raises:
        BadInput: No such kind or quality.

    >>> x = np.array([[[[0.0, 0.3]]]])
    >>> (Picture("png").shown(x, Bounds()) * 255).round(3).tolist()
    [[[[0.0, 76.0]]]]
    """

    kind: str = "png"
    quality: int = 95
    channels_first: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("png", "jpeg"):
            raise BadInput(f"pictures are sent as png or jpeg; got '{self.kind}'")
        if not 1 <= self.quality <= 100:
            raise BadInput(f"the quality must be 1 to 100; got {self.quality}")

    def shown(self, x: Array, bounds: Bounds) -> Array:
        levels = self._levels(x, bounds)
        if self.kind == "jpeg":
            levels = np.stack([self._at_rest(image) for image in levels])
        scaled = bounds.lower + bounds.width * (levels.astype(np.float64) / 255)
        return scaled.astype(x.dtype)

    def encode(self, x: Array, bounds: Bounds) -> Any:
        file = self._file(self._pixels(self._levels(x[None], bounds)[0]))
        return base64.b64encode(file).decode("ascii")

    def _levels(self, x: Array, bounds: Bounds) -> Array:
        share = (x.astype(np.float64) - bounds.lower) / bounds.width
        return np.asarray(np.round(255 * share).clip(0, 255).astype(np.uint8))

    def _at_rest(self, levels: Array) -> Array:
        """An image near this one that its own JPEG file holds unchanged."""
        pixels, generation = self._pixels(levels), 0
        while True:
            after = self._reopened(pixels)
            moving = after != pixels
            if not moving.any():
                break
            share = min(max(generation - _PATIENCE, 0) / _CALMING, 1.0)
            pixels = _flatter(after, moving, share) if share else after
            generation += 1
        return pixels.transpose(2, 0, 1) if self.channels_first else pixels

    def _pixels(self, levels: Array) -> Array:
        """(height, width, channels) of one image."""
        pixels = levels
        if self.channels_first and levels.ndim == 3:
            pixels = levels.transpose(1, 2, 0)
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            order = "channels first" if self.channels_first else "channels last"
            raise BadInput(
                f"pictures have 1 or 3 channels, {order}; got an input of shape "
                f"{levels.shape}"
            )
        return pixels

    def _file(self, pixels: Array) -> bytes:
        from PIL import Image

        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        target = io.BytesIO()
        options = {"quality": self.quality, "subsampling": 0}
        image.save(target, self.kind, **(options if self.kind == "jpeg" else {}))
        return target.getvalue()

    def _reopened(self, pixels: Array) -> Array:
        from PIL import Image

        with Image.open(io.BytesIO(self._file(pixels))) as image:
            return np.array(image).reshape(pixels.shape)


def _flatter(pixels: Array, moving: Array, share: float) -> Array:
    """The image with the contrast of blocks reduced by a share, where any pixel moves.

    Without any contrast a block is grey and rests: its only coefficient is a multiple
    of the quantum that its level is the nearest to.
    """
    grey = pixels.mean(axis=2, keepdims=True)
    mean = _by_block(grey) / _by_block(np.ones_like(grey))
    restless = _by_block(moving.sum(axis=2, keepdims=True)) > 0
    flatter = np.round(pixels + share * (mean - pixels)).astype(np.uint8)
    return np.where(restless, flatter, pixels)


def _by_block(values: Array) -> Array:
    """(height, width, 1) the sum over the block that each pixel belongs to."""
    for axis in (0, 1):
        size = values.shape[axis]
        sums = np.add.reduceat(values, np.arange(0, size, _BLOCK), axis, dtype=float)
        values = sums.repeat(_BLOCK, axis).take(np.arange(size), axis)
    return values
