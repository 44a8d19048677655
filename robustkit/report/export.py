"""The adversarials of a run in forms that other tools read."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_best
from robustkit.evaluation.results import Results
from robustkit.evaluation.shards import write_atomically
from robustkit.numerics.tensors import Array
from robustkit.report import words
from robustkit.report.examples import channels_last
from robustkit.report.reproduce import citation

__all__ = ["export_hf", "export_images", "export_npz"]

_CHUNK = 256
_LONGEST_NAME = 40
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class _Adversarials:
    """Those of one norm; arrays of m rows, in the order of the data.

    Attributes:
        norm: Its name.
        rows: Of best.npz.
        best: The arrays of best.npz, the inputs on the disk.
    """

    norm: str
    rows: Array
    best: dict[str, Array]

    def column(self, name: str) -> Array:
        return self.best[name][self.rows]

    def inputs(self) -> Iterator[Array]:
        """Chunks (k, ...) of the inputs, few in memory at once."""
        for start in range(0, len(self.rows), _CHUNK):
            rows = self.rows[start : start + _CHUNK]
            yield np.array(self.best["x_adversarial"][rows])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.best["x_adversarial"].shape[1:])


def export_npz(results: Results, folder: Path) -> list[Path]:
    """Write NORM.npz for each norm, which `robustkit eval --data` and NumPy read.

    With the arrays x (m, ...) float32, in input units, y (m,), the labels, index (m,),
    positions in the data, distance (m,), in norm units, and attack (m,). Few inputs are
    in memory at once.

    Args:
        results: Of a run.
        folder: To write to; must not exist or be empty.

    Returns:
        The files.

    Raises:
        BadInput: The folder cannot be written to, or the run has no adversarials.
    """
    every, files = _all(results), []
    _fresh(folder)
    for found in every:
        path = folder / f"{found.norm}.npz"
        columns = {
            "y": found.column("label"),
            "index": found.column("index"),
            "distance": found.column("distance"),
            "attack": found.column("attack"),
        }
        with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
            with _member(archive, "x") as target:
                _header(target, "<f4", found.shape)
                for x in found.inputs():
                    target.write(x.astype("<f4").tobytes())
            for name, values in columns.items():
                with _member(archive, name) as target:
                    np.lib.format.write_array(target, values, allow_pickle=False)
        files.append(path)
    return files


def export_images(results: Results, folder: Path) -> list[Path]:
    """Write a folder per norm with a subfolder of PNG files per class.

    Such folders are data for `robustkit eval --data` and for many other tools. Rounding
    to 256 levels moves each value by up to half a level, after which some are no longer
    adversarial (`robustkit verify --rounded`).

    Args:
        results: Of a run on images.
        folder: To write to; must not exist or be empty.

    Returns:
        The folders, one per norm.

    Raises:
        BadInput: The folder cannot be written to, the run has no adversarials, or
            these are no images.
    """
    names, classes = results.run["data"]["class_names"], results.run["model"]["classes"]
    every = _all(results)
    if not _are_images(every[0]):
        raise BadInput(
            f"the inputs of this run have the shape {every[0].shape[1:]}, and are no "
            "images; export them with --npz or --hf"
        )
    labels = every[0].best["label"]
    if classes > _MOST_CLASSES or ((labels < 0) | (labels >= classes)).any():
        raise BadInput(
            f"the run in '{results.path}' has {classes} classes, and labels from "
            f"{labels.min()} to {labels.max()}; expected labels of these classes, and "
            f"no more than {_MOST_CLASSES} for a folder each"
        )
    _fresh(folder)
    folders = []
    for found in every:
        place = folder / found.norm
        digits = len(str(classes - 1))
        # Of classes without an adversarial too: labels are places in the list of them.
        parts = {
            label: f"{label:0{digits}}{_slug(words.class_name(label, names), label)}"
            for label in range(classes)
        }
        for part in parts.values():
            (place / part).mkdir(parents=True)
        for index, label, picture in _pictures(found, results):
            picture.save(place / parts[label] / f"{index:08}.png")
        folders.append(place)
    return folders


def export_hf(results: Results, folder: Path) -> list[Path]:
    """Write a data set as the Hugging Face hub has them, with its card.

    A configuration per norm with one split, `test`: images with a metadata.jsonl, or
    lines of JSON with the inputs where these are no images. Beside the images, which
    are rounded to 256 levels, NORM.npz has the inputs as they were found. Upload the
    folder as it is; nothing is sent from here.

    Args:
        results: Of a run.
        folder: To write to; must not exist or be empty.

    Returns:
        The card, and what belongs to each norm.

    Raises:
        BadInput: The folder cannot be written to, or the run has no adversarials.
    """
    files = [folder / "README.md", *export_npz(results, folder)]
    configurations = []
    for found in _all(results):
        images = _are_images(found)
        place = folder / found.norm / "test"
        place.mkdir(parents=True)
        with open(
            place / ("metadata.jsonl" if images else "data.jsonl"),
            "w",
            encoding="utf-8",
        ) as lines:
            for line in _image_lines(found, results, place) if images else _rows(found):
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        configurations.append((found.norm, f"{found.norm}/test/*"))
        files.append(place)
    files[0].write_text(
        _card(results, configurations), encoding="utf-8", errors="backslashreplace"
    )
    return files


def _all(results: Results) -> list[_Adversarials]:
    path = results.path / "best.npz"
    if not path.exists():
        raise BadInput(
            f"the run in '{results.path}' has no best.npz, so there is nothing to "
            "export; finish it with `robustkit eval --resume`"
        )
    best = read_best(path)
    every = []
    for norm in results.norms:
        rows = np.flatnonzero(best["norm"] == norm)
        rows = rows[np.argsort(best["index"][rows], kind="stable")]
        if len(rows):
            every.append(_Adversarials(norm, rows, best))
    if not every:
        raise BadInput(f"the run in '{results.path}' has no adversarials to export")
    return every


def _fresh(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise BadInput(f"cannot write to '{folder}': {error}") from error
    if not empty:
        raise BadInput(f"'{folder}' is not empty; name another folder with --out")


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    # A fixed date, so that equal results are equal bytes.
    entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    return archive.open(entry, "w", force_zip64=True)


def _header(target: Any, dtype: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(
        target, {"descr": dtype, "fortran_order": False, "shape": shape}
    )


def _are_images(found: _Adversarials) -> bool:
    return channels_last(np.empty(found.shape[1:], dtype=np.float32)) is not None


def _pictures(
    found: _Adversarials, results: Results
) -> Iterator[tuple[int, int, Image.Image]]:
    """Position in the data, label and picture of each."""
    lower, upper = results.run["config"]["bounds"]
    index, label = found.column("index"), found.column("label")
    place = 0
    for chunk in found.inputs():
        for x in chunk:
            image = channels_last(x)
            assert image is not None
            shares = (image.astype(np.float64) - lower) / (upper - lower)
            levels = np.round(255 * shares.clip(0, 1)).astype(np.uint8)
            grey = levels.shape[2] == 1
            picture = Image.fromarray(levels[:, :, 0] if grey else levels)
            yield int(index[place]), int(label[place]), picture
            place += 1


def _image_lines(
    found: _Adversarials, results: Results, place: Path
) -> Iterator[dict[str, Any]]:
    """Write each image, and say what belongs to it."""
    plain = _lines(found)
    for (index, _, picture), line in zip(_pictures(found, results), plain, strict=True):
        name = f"{index:08}.png"
        picture.save(place / name)
        yield {"file_name": name, **line}


def _rows(found: _Adversarials) -> Iterator[dict[str, Any]]:
    lines = _lines(found)
    for chunk in found.inputs():
        for x in chunk:
            yield {**next(lines), "x": x.tolist()}


def _lines(found: _Adversarials) -> Iterator[dict[str, Any]]:
    columns = {name: found.column(name).tolist() for name in ("label", "index")}
    columns |= {name: found.column(name).tolist() for name in ("distance", "attack")}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _slug(name: str, label: int) -> str:
    """A class name as part of the name of a folder; nothing if it is a number."""
    if name == str(label):
        return ""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_LONGEST_NAME]
    return f"-{plain}" if plain else ""


def _card(results: Results, configurations: list[tuple[str, str]]) -> str:
    run = results.run
    title = f"Adversarial examples of {run['model']['name']} on {run['data']['name']}"
    lines = ["---", f"pretty_name: {_yaml(title)}"]
    lines += ["tags:", "- adversarial-examples", "- robustness", "configs:"]
    for norm, pattern in configurations:
        lines += [
            f"- config_name: {_yaml(norm)}",
            "  data_files:",
            "  - split: test",
            f"    path: {_yaml(pattern)}",
        ]
    lines += [
        "---",
        "",
        f"# {re.sub(r'[^A-Za-z0-9 .,:_()-]+', '-', title)}",
        "",
        "One row per sample: the nearest adversarial found, its label, its position in "
        "the data (`index`), its distance in norm units and the attack that found it. "
        "Images are rounded to 256 levels; the npz files have the inputs as they were "
        "found.",
        "",
    ]
    said = citation(run, results.summary()).rstrip().splitlines()
    return "\n".join([*lines, *(f"    {line}" for line in said)]) + "\n"


def _yaml(text: str) -> str:
    """A string of JSON, which YAML reads as the same one."""
    return json.dumps(text)
