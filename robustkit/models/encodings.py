"""How inputs are put into a request, and what is left of them."""

import base64
import io
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Encoding", "Numbers", "Picture"]

# How often an image is compressed again until that changes nothing more, so that its
# file can be made anew by whoever has the image.
_GENERATIONS = 20
# How many inputs' files are remembered, for images that never come to rest.
_REMEMBERED = 4096


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
    # By the content of an image that was shown, the file that it came out of: a second
    # JPEG file of it may hold another image.
    _files: "OrderedDict[bytes, bytes]" = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.kind not in ("png", "jpeg"):
            raise BadInput(f"pictures are sent as png or jpeg; got '{self.kind}'")
        if not 1 <= self.quality <= 100:
            raise BadInput(f"the quality must be 1 to 100; got {self.quality}")

    def shown(self, x: Array, bounds: Bounds) -> Array:
        levels = self._levels(x, bounds)
        if self.kind == "jpeg":
            levels = np.stack([self._compressed(image) for image in levels])
        scaled = bounds.lower + bounds.width * (levels.astype(np.float64) / 255)
        return scaled.astype(x.dtype)

    def encode(self, x: Array, bounds: Bounds) -> Any:
        levels = self._levels(x[None], bounds)[0]
        file = self._files.get(levels.tobytes())
        return base64.b64encode(file or self._file(levels)).decode("ascii")

    def _levels(self, x: Array, bounds: Bounds) -> Array:
        share = (x.astype(np.float64) - bounds.lower) / bounds.width
        return np.asarray(np.round(255 * share).clip(0, 255).astype(np.uint8))

    def _compressed(self, levels: Array) -> Array:
        """What the file of an image holds; an image out of a file stays as it is."""
        from PIL import Image

        key = levels.tobytes()
        if key in self._files:
            self._files.move_to_end(key)
            return levels
        pixels = levels
        for _ in range(_GENERATIONS):
            before, file = pixels, self._file(pixels)
            with Image.open(io.BytesIO(file)) as image:
                pixels = np.array(image)
            if self.channels_first:
                pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            elif pixels.ndim == 2:
                pixels = pixels[..., None]
            if np.array_equal(pixels, before):
                break
        self._files[pixels.tobytes()] = file
        if len(self._files) > _REMEMBERED:
            self._files.popitem(last=False)
        return pixels

    def _file(self, levels: Array) -> bytes:
        from PIL import Image

        pixels = levels
        if self.channels_first and levels.ndim == 3:
            pixels = levels.transpose(1, 2, 0)
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            order = "channels first" if self.channels_first else "channels last"
            raise BadInput(
                f"pictures have 1 or 3 channels, {order}; got an input of shape "
                f"{levels.shape}"
            )
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        target = io.BytesIO()
        options = {} if self.kind == "png" else {"quality": self.quality}
        image.save(target, self.kind, **options)
        return target.getvalue()
