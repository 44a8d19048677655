"""Folders with one subfolder of images per class."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.arrays import Pair
from robustkit.numerics.tensors import Array

__all__ = ["ImageFolder", "open_folder"]


@dataclass(frozen=True)
class ImageFolder:
    """Images of one size, and their classes.

    Attributes:
        class_names: The subfolders' names in the order of text: labels 0, 1, ... Hidden
            ones (.name) are none.
        files: With their labels: the first of each class, the second of each, ...
        grey: Whether the images have one channel; else they have three.
        notes: What people should know about how the images are read.
    """

    class_names: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]
    grey: bool
    notes: tuple[str, ...]

    def batches(self, size: int) -> Iterator[Pair]:
        """Images (n, channels, height, width) uint8 and labels (n,), n <= size.

        Raises:
            BadInput: A file cannot be read.
        """
        for start in range(0, len(self.files), size):
            part = self.files[start : start + size]
            x = np.stack([_pixels(file, self.grey) for file, _ in part])
            yield x, np.array([label for _, label in part])


def open_folder(path: Path, samples: int | None = None) -> ImageFolder:
    """Look at the headers of the images, of which only so many samples are used.

    Raises:
        BadInput: There are none, or they have several sizes, or more than 8 bits per
            channel, or one cannot be read.
    """
    classes = sorted(entry.name for entry in _seen(path) if entry.is_dir())
    by_class = [_image_files(path / name) for name in classes]
    if not any(by_class):
        raise BadInput(
            f"expected a folder with one subfolder of images per class; '{path}' has "
            f"{len(classes)} subfolders and no images in them"
        )
    files = [
        (file, label)
        for row in itertools.zip_longest(*by_class)
        for label, file in enumerate(row)
        if file is not None
    ][:samples]
    modes, transparent = _modes([file for file, _ in files])
    notes = []
    if not all(by_class):
        empty = [repr(classes[i]) for i, found in enumerate(by_class) if not found]
        notes.append(f"no images of the classes {', '.join(empty)}")
    if transparent or modes & {"LA", "PA", "RGBA", "RGBa", "La"}:
        notes.append("transparency of the images was left out")
    if all(name.isdecimal() for name in classes) and classes != sorted(
        classes, key=int
    ):
        notes.append(
            "classes are numbered by the order of their folders' names as text: "
            f"'{classes[1]}' is label 1"
        )
    grey = modes <= {"1", "L", "LA", "La"}
    return ImageFolder(tuple(classes), tuple(files), grey, tuple(notes))


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    return sorted(file for file in _seen(folder) if file.suffix.lower() in known)


def _seen(folder: Path) -> Iterator[Path]:
    """What is not hidden: editors and file managers leave such things behind."""
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _modes(files: list[Path]) -> tuple[set[str], bool]:
    """What Pillow calls the kinds of pixels, and whether one colour is transparent."""
    modes: dict[str, Path] = {}
    size, transparent = None, False
    for file in files:
        with _opened(file) as image:
            size = size or image.size
            modes.setdefault(image.mode, file)
            transparent = transparent or "transparency" in image.info
            if image.size != size:
                raise BadInput(
                    f"expected images of one size; '{files[0]}' has {size} pixels "
                    f"(width, height), '{file}' {image.size}. Resize or crop them first"
                )
    for mode, file in modes.items():
        if mode.startswith(("I", "F")):
            raise BadInput(
                f"expected images of 8 bits per channel; '{file}' has the mode '{mode}'"
            )
    return set(modes), transparent


def _pixels(file: Path, grey: bool) -> Array:
    with _opened(file) as image:
        values = np.array(image.convert("L" if grey else "RGB"))
    return values[None] if grey else values.transpose(2, 0, 1)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except BadInput:
        raise
    # Damaged pictures raise many kinds of errors.
    except Exception as error:
        raise BadInput(f"cannot read the image '{file}': {error}") from error
