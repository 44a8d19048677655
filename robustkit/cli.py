"""The command line."""

import contextlib
import errno
import json
import math
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from robustkit import __version__
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from robustkit.checks.check import Findings
    from robustkit.evaluation.batch import Progress
    from robustkit.evaluation.results import Results

__all__ = ["main"]

# Nothing heavy is imported at the top: `robustkit --help` answers at once.

# How much of what is wrong with a claim is shown.
_LINES = 10

_EVAL_HELP = """Find the smallest adversarial perturbation of every sample, verified.

MODEL is a demo name (digits, digits-robust), file.onnx, file.pt2 (torch.export), a
TorchScript file, path/to/file.py:name or package.module:name, or the address
(http://...) of a model that answers JSON. The name stands for a torch module, a
function on NumPy or JAX arrays, a foolbox or robustkit model, or a function without
arguments that returns one of these.

\b
Python files and modules RUN CODE: name only those you trust. Pickled checkpoints
are refused; load weights yourself with torch.load(..., weights_only=True).

\b
Examples:
  robustkit eval
  robustkit eval net.onnx --data test.npz --attacks boundary --norm l2
  robustkit eval model.py:build --data images/ --epsilons 2/255,8/255
  robustkit eval model.py:build --data test.npz --mean 0.5 --std 0.25 --budget 1000
"""


_TEST_HELP = """Test whether an attack finds adversarials that are known to exist.

The last layer of MODEL is replaced, for each input, by one that calls a known point
within epsilon adversarial (the binarization test of Zimmermann et al., 2022). An attack
that misses such points says little about the model itself. Prints the verdict and a
paragraph for an appendix. MODEL and DATA are those of `robustkit eval`.

\b
Exit codes: 0 PASS; 3 FAIL; 4 INCONCLUSIVE, UNINFORMATIVE or INVALID; 2 bad input.

\b
Examples:
  robustkit test digits --epsilon 0.1
  robustkit test model.py:build --data test.npz --attack pgd --norm linf --epsilon 8/255
  robustkit test model.py:build --data test.npz --epsilon 8/255 --features layer4
"""


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers; fractions such as 8/255 are welcome."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(_number(part) for part in value.split(","))
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{value}' is not a list of numbers such as 2/255,8/255")


class _Target(click.ParamType[int | str]):
    """A class number, or a rule."""

    name = "class|random|least-likely"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        return int(value) if re.fullmatch(r"\d+", str(value)) else str(value)


class _Shard(click.ParamType[tuple[int, int]]):
    """One part of so many."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        part, slash, parts = str(value).partition("/")
        if not (slash and part.isdigit() and parts.isdigit()):
            self.fail(f"'{value}' is not a part of the data such as 3/16")
        return int(part), int(parts)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="robustkit")
def main() -> None:
    """How robust a classifier really is, and proof that the answer holds."""


@main.command("eval", help=_EVAL_HELP)
@click.argument("model", required=False)
@click.option(
    "--data",
    metavar="DATA",
    help="A demo name (digits), file.npz with x and y, a folder of images with one "
    "subfolder per class, or file.py:name.",
)
@click.option(
    "--norm",
    "norms",
    multiple=True,
    help="l0, l0-pixels, l1, l2 or linf; may be repeated.  [default: linf]",
)
@click.option(
    "--attacks",
    default="auto",
    show_default=True,
    metavar="NAME,...",
    help="See `robustkit attacks`; foolbox:NAME for foolbox's.",
)
@click.option(
    "--epsilons",
    multiple=True,
    metavar="[NORM=]E,...",
    help="Sizes at which to state robust accuracy, such as 2/255,8/255 or l2=0.5,1.",
)
@click.option("--target", type=_Target(), help="Class to be reached instead of any.")
@click.option("--samples", type=int, help="Evaluate so many of the data.")
@click.option("--budget", type=int, help="Model passes per sample and attack.")
@click.option(
    "--access",
    type=click.Choice(["gradient", "score", "decision"]),
    default="gradient",
    show_default=True,
    help="Use no more of the model than this.",
)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", help="For torch models, such as cuda:0.")
@click.option("--bounds", type=_Numbers(), help="Of valid inputs.  [default: 0,1]")
@click.option("--mean", type=_Numbers(), help="The model is shown (x - mean) / std.")
@click.option("--std", type=_Numbers(), help="One number, or one per channel.")
@click.option(
    "--pool",
    metavar="DATA",
    help="Other inputs that attacks may start from; results then depend on them.",
)
@click.option(
    "--warrant",
    is_flag=True,
    help="Then test each attack on adversarials known to exist (see robustkit test).",
)
@click.option(
    "--shard",
    type=_Shard(),
    help="Evaluate one part of the data, such as 3/16; see `robustkit merge`.",
)
@click.option("--time-limit", type=float, help="Seconds for each attack on each batch.")
@click.option(
    "--out",
    type=click.Path(),
    help="Run folder; an unfinished run in it goes on.  [default: runs/TIME-MODEL]",
)
@click.option(
    "--resume",
    type=click.Path(),
    metavar="RUN",
    help="Go on with an unfinished run, by its folder alone.",
)
@click.option(
    "--strict", is_flag=True, help="Exit with 3 if a finding invalidates the number."
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json only.")
def evaluate_command(
    model: str | None,
    data: str | None,
    norms: tuple[str, ...],
    attacks: str,
    epsilons: tuple[str, ...],
    warrant: bool,
    out: str | None,
    resume: str | None,
    strict: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """See _EVAL_HELP."""
    given = resume or out
    folder = Path(given) if given else None
    ours = folder is None or _is_ours(folder)
    with _reporting_errors(lambda: folder if ours else None):
        if resume:
            _check_alone(click.get_current_context())
        else:
            model, data = _defaults(model, data)
        if folder is None:
            folder = _fresh_folder(str(model))
        bounds = _two(settings.pop("bounds"))
        from rich.console import Console

        from robustkit.evaluation.evaluate import evaluate
        from robustkit.evaluation.results import Results
        from robustkit.evaluation.resume import resume as go_on

        try:
            with _progress_bar() as progress:
                if resume:
                    results = go_on(resume, progress=progress)
                else:
                    results = evaluate(
                        model,
                        data,
                        norm=_split(norms) or ["linf"],
                        attacks=attacks.split(","),
                        epsilons=_sizes(epsilons),
                        bounds=bounds,
                        out=folder,
                        progress=progress,
                        **settings,
                    )
        except BaseException:
            # A report of what was finished; why it is no more, is said by the error.
            with contextlib.suppress(Exception):
                if ours:
                    Results(folder).report()
            raise
        if warrant:
            from robustkit.active_tests.warrant import warrant as warranted

            def say(what: str) -> None:
                click.echo(what, err=True)

            warranted(results, model, data, attacks.split(","), progress=say)
        findings = _findings(results)
        _show(results, as_json, Console(), findings)
    if strict and findings is not None and findings.invalid:
        sys.exit(3)


@main.command("merge")
@click.argument("out", type=click.Path())
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print summary.json only.")
def merge_command(out: str, runs: tuple[str, ...], as_json: bool) -> None:
    r"""Join the runs of all parts of an evaluation to one run folder, OUT.

    \b
    Example, for two nodes of a cluster:
      robustkit eval model.py:build --data test.npz --shard 1/2 --out part-1
      robustkit eval model.py:build --data test.npz --shard 2/2 --out part-2
      robustkit merge whole part-1 part-2
    """
    with _reporting_errors(lambda: None):
        from rich.console import Console

        from robustkit.evaluation.merge import merge

        _show(merge(runs, out), as_json, Console())


@main.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compare_command(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare RUNS sample by sample, each with the first, and all their attacks.

    For models on the same data, or for attacks on one model: the difference of robust
    accuracies with its interval and test, the ratio of distances, and how near each
    attack comes to the nearest of all.
    """
    with _reporting_errors(lambda: None):
        from rich.console import Console

        from robustkit.evaluation.compare import compare
        from robustkit.report.table import print_comparison

        found = compare(runs)
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            print_comparison(found, Console())


@main.command("verify")
@click.argument("run")
@click.option("--model", required=True, help="What was evaluated, as for `eval`.")
@click.option("--data", required=True, help="What it was evaluated on, likewise.")
@click.option("--device", help="For torch models, such as cuda:0.")
@click.option(
    "--rounded",
    is_flag=True,
    help="Also count the adversarials that remain after rounding to 256 levels.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify_command(
    run: str, model: str, data: str, device: str | None, rounded: bool, as_json: bool
) -> None:
    """Recompute what the run folder RUN claims, without any attack.

    Every adversarial is shown to the model again, and every distance, the curve and the
    summary are computed anew. Exit code 0 if all of it holds, 3 if a claim does not.
    MODEL and DATA run code as in `robustkit eval`; nothing that RUN names is run.
    """
    with _reporting_errors(lambda: None):
        from robustkit.evaluation.audit import verify

        audit = verify(run, model, data, device=device, rounded=rounded)
        if as_json:
            click.echo(json.dumps(audit.to_json(), indent=2))
        else:
            for claim in audit.claims:
                verdict = "holds" if claim.holds else "BROKEN"
                click.echo(f"{verdict:7} {claim.name} ({claim.checked} checked)")
                lines = [*claim.broken, *claim.notes]
                for line in lines[:_LINES]:
                    click.echo(f"{'':8}{line}")
                if len(lines) > _LINES:
                    click.echo(f"{'':8}{len(lines) - _LINES} more; --json lists all")
    if not audit.holds:
        sys.exit(3)


@main.command("check")
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="As for `eval`.")
@click.option(
    "--run", type=click.Path(), help="A run of that model; its attacks are compared."
)
@click.option(
    "--epsilon",
    type=_Numbers(),
    help="A customary change of every feature.  [default: 8/255 of the bounds' width]",
)
@click.option(
    "--samples",
    type=int,
    default=64,
    show_default=True,
    help="To ask the model about, some 30 passes each.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", help="For torch models, such as cuda:0.")
@click.option("--bounds", type=_Numbers(), help="Of valid inputs.  [default: 0,1]")
@click.option("--mean", type=_Numbers(), help="The model is shown (x - mean) / std.")
@click.option("--std", type=_Numbers(), help="One number, or one per channel.")
@click.option(
    "--strict", is_flag=True, help="Exit with 3 if a finding invalidates the number."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def check_command(
    model: str | None,
    data: str | None,
    epsilon: tuple[float, ...] | None,
    bounds: tuple[float, ...] | None,
    strict: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Look for the symptoms of an evaluation that fools itself.

    Masked or misleading gradients, randomness, outputs that hide what they should show,
    attacks that did not do their work: each finding comes with its evidence and with
    what to do. MODEL and DATA are as for `robustkit eval`, and run code as there.
    """
    with _reporting_errors(lambda: None):
        model, data = _defaults(model, data)
        box = _two(bounds)
        if epsilon is not None and len(epsilon) != 1:
            raise BadInput(f"--epsilon takes one number; got {len(epsilon)}")
        from rich.console import Console

        from robustkit.checks.check import check
        from robustkit.report.table import print_findings

        found = check(
            model, data, epsilon=epsilon and epsilon[0], bounds=box, **settings
        )
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            print_findings(found, Console())
    if strict and found.invalid:
        sys.exit(3)


@main.command("exact")
@click.argument("model")
@click.option("--data", help="As for `robustkit eval`.")
@click.option("--norm", default="linf", show_default=True, help="linf, l1 or l0.")
@click.option(
    "--timeout",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds for each sample.",
)
@click.option("--samples", type=int, help="So many of the data.")
@click.option("--target", type=int, help="Class to be reached instead of any.")
@click.option("--bounds", type=_Numbers(), help="Of valid inputs.  [default: 0,1]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def exact_command(
    model: str, data: str | None, samples: int | None, as_json: bool, **settings: Any
) -> None:
    r"""Compute the smallest adversarial perturbation of each sample exactly.

    By mixed-integer programs, for small networks: MODEL is a torch Sequential of ReLUs
    and layers such as Linear and Conv2d. Where time is up, an interval that is certain
    to hold the answer. MODEL and DATA run code as in `robustkit eval`.

    \b
    Example:
      robustkit exact model.py:build --data test.npz --norm linf --samples 10
    """
    with _reporting_errors(lambda: None):
        from robustkit.active_tests.exact import exact_distances

        model, data = _defaults(model, data)
        bounds = _two(settings.pop("bounds"))
        header = f"{'sample':>6} {'label':>5} {'lower':>12} {'upper':>12}"
        rows = []
        found = exact_distances(model, data, bounds=bounds, samples=samples, **settings)
        for place, (label, result) in enumerate(found):
            if as_json:
                rows.append(
                    {
                        "sample": place,
                        "label": label,
                        "lower": _finite(result.lower),
                        "upper": _finite(result.upper),
                        "status": result.status,
                        "seconds": round(result.seconds, 3),
                    }
                )
                continue
            if place == 0:
                click.echo(f"{header}  {'status':13} {'seconds':>7}")
            click.echo(
                f"{place:6} {label:5} {result.lower:12.7g} {result.upper:12.7g}  "
                f"{result.status:13} {result.seconds:7.1f}"
            )
        if as_json:
            click.echo(json.dumps(rows, indent=2))


@main.command("test", help=_TEST_HELP)
@click.argument("model", required=False)
@click.option(
    "--data", metavar="DATA", help="As for `robustkit eval`; labels are unused."
)
@click.option("--attack", default="auto", show_default=True, metavar="NAME")
@click.option("--norm", default="linf", show_default=True)
@click.option(
    "--epsilon",
    type=_Numbers(),
    required=True,
    metavar="E",
    help="Size of the adversarials known to exist, such as 8/255.",
)
@click.option(
    "--features", metavar="LAYER", help="Layer to build on.  [default: the logits]"
)
@click.option(
    "--mode",
    type=click.Choice(["standard", "hard", "logistic"]),
    default="standard",
    show_default=True,
)
@click.option(
    "--detector", metavar="FILE.py:NAME", help="A function from inputs to scores."
)
@click.option("--inverted", is_flag=True, help="Adversarial is what is detected.")
@click.option("--votes", type=int, default=1, show_default=True, help="If random.")
@click.option("--samples", type=int, default=128, show_default=True)
@click.option("--budget", type=int, help="Model passes per sample.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", help="For torch models, such as cuda:0.")
@click.option("--bounds", type=_Numbers(), help="Of valid inputs.  [default: 0,1]")
@click.option("--mean", type=_Numbers(), help="The model is shown (x - mean) / std.")
@click.option("--std", type=_Numbers(), help="One number, or one per channel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
def test_command(
    model: str | None,
    data: str | None,
    attack: str,
    epsilon: tuple[float, ...],
    detector: str | None,
    samples: int,
    bounds: tuple[float, ...] | None,
    device: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """See _TEST_HELP."""
    with _reporting_errors(lambda: None):
        model, data = _defaults(model, data)
        if len(epsilon) != 1:
            raise BadInput(f"--epsilon takes one number; got {len(epsilon)}")
        box = _two(bounds)
        import numpy as np

        from robustkit.active_tests.binarization import active_test
        from robustkit.evaluation.opening import model_and_data
        from robustkit.models.user_code import import_object, neighbours_importable
        from robustkit.numerics.bounds import Bounds

        valid = None if box is None else Bounds(*box)
        adapted, dataset = model_and_data(
            model, data, valid, samples, device=device, mean=mean, std=std
        )
        if detector is not None:
            with neighbours_importable(detector):
                settings["detector"] = import_object(detector)
        result = active_test(
            adapted,
            np.concatenate([x for x, _ in dataset.batches(samples)]),
            attack,
            epsilon=epsilon[0],
            samples=samples,
            **settings,
        )
        click.echo(
            result.to_json() if as_json else f"{result.verdict}\n\n{result.paragraph()}"
        )
    sys.exit({"PASS": 0, "FAIL": 3}.get(result.verdict, 4))


@main.command("attacks")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def attacks_command(as_json: bool) -> None:
    """List every attack with its norms, access, cost per step and source."""
    with _reporting_errors(lambda: None):
        from robustkit.registry import attack_names, get_attack

        attacks = {name: get_attack(name) for name in attack_names()}
        if as_json:
            listing = [
                {
                    "name": name,
                    "norms": sorted(attack.norms),
                    "access": attack.access.name.lower(),
                    "cost_per_step": attack.cost,
                    "source": attack.source,
                }
                for name, attack in attacks.items()
            ]
            click.echo(json.dumps(listing, indent=2))
            return
        for name, attack in attacks.items():
            norms = " ".join(sorted(attack.norms))
            click.echo(f"{name:16} {attack.access.name.lower():9} {norms}")
            click.echo(f"{'':16} per step: {attack.cost}")
            click.echo(f"{'':16} {attack.source}")
        click.echo("and foolbox:NAME for the attacks of foolbox, where it is installed")


@main.command("doctor")
def doctor_command() -> None:
    """Print versions, and the frameworks and devices found."""
    with _reporting_errors(lambda: None):
        from robustkit.evaluation.evaluate import package_versions

        for package, found in package_versions().items():
            click.echo(f"{package:12} {found}")
        import torch

        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            devices.append("mps")
        click.echo(
            f"{'torch sees':12} {', '.join(devices)}; {torch.get_num_threads()} threads"
        )
        with contextlib.suppress(ImportError):
            import jax

            click.echo(f"{'jax sees':12} {', '.join(map(str, jax.devices()))}")
        with contextlib.suppress(ImportError):
            import onnxruntime

            providers = onnxruntime.get_available_providers()
            click.echo(f"{'onnxruntime':12} {', '.join(providers)}")


def _findings(results: "Results") -> "Findings | None":
    """What the checks say of a run, kept in its folder; None: nothing can be said."""
    from robustkit.checks.check import check_results

    try:
        findings = check_results(results)
    except BadInput as error:
        click.echo(f"warning: not checked: {error}", err=True)
        return None
    findings.save(results.path)
    return findings


def _show(
    results: "Results",
    as_json: bool,
    console: "Console",
    findings: "Findings | None" = None,
) -> None:
    """The end of a run: its report, and its tables or its summary."""
    from robustkit.report.table import print_findings, print_results

    report = results.report()
    if as_json:
        click.echo((results.path / "summary.json").read_text(), nl=False)
        return
    print_results(results, console)
    if findings is not None and findings.findings:
        print_findings(findings, console)
    click.echo(f"\nreport: {report}")


def _is_ours(folder: Path) -> bool:
    """Whether what is in a folder is there, or will be, by our doing."""
    return (
        not folder.exists()
        or (folder.is_dir() and not any(folder.iterdir()))
        or (folder / ".shards").is_dir()
    )


def _check_alone(context: click.Context) -> None:
    """Refuse options that a run which goes on cannot follow."""
    typed = click.core.ParameterSource.COMMANDLINE
    others = [
        name
        for name in context.params
        if name not in ("resume", "strict", "as_json")
        and context.get_parameter_source(name) is typed
    ]
    if others:
        raise BadInput(
            "--resume goes on with a run as it was begun, so it goes with --strict and "
            f"--json only; leave out {', '.join(sorted(others))}"
        )


def _two(bounds: tuple[float, ...] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if len(bounds) != 2:
        raise BadInput(f"--bounds takes two numbers, LO,HI; got {len(bounds)}")
    return bounds[0], bounds[1]


def _finite(value: float) -> float | None:
    """A number as JSON has it: infinity is null."""
    return value if math.isfinite(value) else None


def _split(parts: tuple[str, ...]) -> list[str]:
    return [name for part in parts for name in part.split(",")]


def _defaults(model: str | None, data: str | None) -> tuple[str, str]:
    if model is None:
        return "digits", data or "digits"
    if data is None:
        # A bare word can only be meant as a demo name, and is looked up as one.
        if ":" in model or Path(model).suffix:
            raise BadInput(
                f"no data to evaluate '{model}' on; name some with --data (file.npz, a "
                "folder of images, file.py:name, or the demo 'digits')"
            )
        data = "digits"
    return model, data


def _fresh_folder(model: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name).strip("-.") or "model"
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{stem}"
    folder, again = base, 1
    while folder.exists():
        again += 1
        folder = base.with_name(f"{base.name}-{again}")
    return folder


def _sizes(
    epsilons: tuple[str, ...],
) -> tuple[float, ...] | dict[str, tuple[float, ...]] | None:
    """`--epsilons` as given: for all norms, or by norm."""
    if not epsilons:
        return None
    by_norm: dict[str, tuple[float, ...]] = {}
    for text in epsilons:
        norm, _, sizes = text.rpartition("=")
        by_norm[norm] = by_norm.get(norm, ()) + _Numbers().convert(sizes, None, None)
    if set(by_norm) == {""}:
        return by_norm[""]
    if "" in by_norm:
        raise BadInput(
            "--epsilons was given both with and without a norm; name the norm each "
            "time, as in --epsilons linf=8/255 --epsilons l2=0.5"
        )
    return by_norm


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


@contextlib.contextmanager
def _reporting_errors(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Every end of a command as one message and an exit code."""

    def kept() -> str:
        place = folder()
        if not (place and place.exists()):
            return ""
        goes_on = (place / ".shards").is_dir() and (place / "run.json").exists()
        way = f"; to go on: robustkit eval --resume {place}" if goes_on else ""
        return f"; what was finished is in {place}{way}"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def unexpected(error: Exception) -> NoReturn:
        import traceback

        place = folder()
        where = ""
        if place and place.exists():
            with contextlib.suppress(OSError):
                (place / "error.txt").write_text(traceback.format_exc())
                where = f"; the full trace is in {place / 'error.txt'}"
        click.echo(
            f"unexpected error: {type(error).__name__}: {error}{kept()}{where}",
            err=True,
        )
        if not where:
            click.echo(traceback.format_exc(), err=True)
        sys.exit(1)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(
                f"warning: {message}", err=True
            )
            yield
    except BadInput as error:
        click.echo(f"error: {error}{kept()}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"interrupted{kept()}", err=True)
        sys.exit(130)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            unexpected(error)
        click.echo(f"error: the disk is full ({error}){kept()}", err=True)
        sys.exit(1)
    except Exception as error:
        unexpected(error)
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _progress_bar() -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal, a line per batch and attack elsewhere; both to stderr."""
    if not sys.stderr.isatty():
        last: list[tuple[int, str, str]] = []

        def line(progress: "Progress") -> None:
            at = (progress.first, progress.norm, progress.attack)
            if last != [at]:
                last[:] = [at]
                click.echo(_doing(progress), err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("looking at the model", total=1.0)
        yield lambda progress: bars.update(
            task, description=_doing(progress), completed=progress.share
        )


def _doing(progress: "Progress") -> str:
    last = progress.first + progress.samples - 1
    return f"samples {progress.first}-{last}: {progress.norm} {progress.attack}"
