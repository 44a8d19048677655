"""Networks in torch's own files, and the refusal of what could run code in them."""

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from robustkit.errors import BadInput, in_one_line
from robustkit.models.batching import AnyBatch

__all__ = ["ExportedModule", "load_exported", "load_torchscript"]


class ExportedModule(torch.nn.Module):
    """An exported program, asked at any batch size."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        self._ask = AnyBatch(self._logits, torch.cat, _batch_size(program))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) to logits (n, classes)."""
        return cast(torch.Tensor, self._ask(x))

    def _logits(self, x: torch.Tensor) -> Any:
        out = self.module(x)
        out = getattr(out, "logits", out)
        if not isinstance(out, torch.Tensor):
            raise BadInput(
                f"the exported program returned a {type(out).__name__}; expected a "
                "torch tensor of logits (n, classes)"
            )
        return out


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """Read what torch.export.save wrote.

    Raises:
        BadInput: It is something else, or holds pickled objects or compiled code.
    """
    _refuse_code(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise BadInput(
            f"torch {torch.__version__} cannot load '{path}' as an exported program "
            f"(torch.export.save writes one): {error}"
        ) from error


def load_torchscript(path: Path) -> torch.nn.Module:
    """Read what torch.jit.save wrote, onto the CPU.

    Raises:
        BadInput: It is something else; for a checkpoint, which may hold pickled
            objects, with what to do about it.
    """
    entries = []
    if zipfile.is_zipfile(path):
        with _archive(path) as archive:
            entries = [entry.rpartition("/")[2] for entry in archive.namelist()]
    pickled = "data.pkl" in entries or path.read_bytes()[:1] == b"\x80"
    if "constants.pkl" not in entries and pickled:
        raise BadInput(
            f"'{path}' is a checkpoint: it holds weights (or a pickled object, which "
            "could run any code when loaded), not a network. Write a Python file with "
            "a function that builds the module, loads "
            f"torch.load('{path.name}', weights_only=True) into it and returns it; "
            "then pass file.py:function"
        )
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, but files of it will be around for long.
            warnings.simplefilter("ignore", DeprecationWarning)
            load: Any = torch.jit.load
            return cast(torch.nn.Module, load(path, map_location="cpu"))
    except Exception as error:
        raise BadInput(f"'{path}' is not a TorchScript file: {error}") from error


def _batch_size(program: torch.export.ExportedProgram) -> int | None:
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            size = node.meta["val"].shape[0]
            return size if isinstance(size, int) else None
    return None


def _refuse_code(path: Path) -> None:
    """torch.export.load unpickles parts of some files; these are not let near it."""
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"expected a file that torch.export.save wrote; '{path}' is not a zip "
            "archive, as those are"
        )
    with _archive(path) as archive:
        for entry in archive.namelist():
            file = entry.rpartition("/")[2]
            if file.endswith("_config.json"):
                config = json.loads(archive.read(entry)).get("config", {})
                safe = all(
                    not payload.get("use_pickle")
                    and payload["path_name"].startswith(("weight_", "tensor_"))
                    for payload in config.values()
                )
            elif file.endswith(".pt") or file.startswith("serialized_"):
                safe = file.endswith("program.json") or _holds_tensors_only(
                    archive.read(entry)
                )
            else:
                safe = "/aotinductor/" not in entry
            if not safe:
                raise BadInput(
                    f"'{path}' contains pickled objects or compiled code ('{entry}'), "
                    "which could run anything; export the model with plain tensors only"
                )


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except BadInput:
        raise
    # Damaged files raise ten kinds of errors.
    except Exception as error:
        raise BadInput(
            f"'{path}' is damaged: {in_one_line(error)}; save or copy it anew"
        ) from error


def _holds_tensors_only(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return False
    return True
