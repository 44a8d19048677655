"""The main job: `robustkit eval`, and `robustkit merge` for its parts."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.engines import ENGINE_OPTIONS, chosen_engine, engine_options
from robustkit.cli.options import (
    Header,
    Part,
    Target,
    defaults,
    fresh_folder,
    json_option,
    model_options,
    seed_option,
    sizes,
    split,
    strict_option,
    two,
)
from robustkit.cli.output import prints_aside
from robustkit.cli.progress import progress_bar, progress_option, say
from robustkit.cli.vnnlib import TIMEOUT, answer_specs
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from robustkit.adaptive.adaptation import Adaptation
    from robustkit.checks.check import Findings
    from robustkit.evaluation.results import Results

__all__ = ["evaluate_command", "merge_command"]

_WITH_RESUME = (
    "resume",
    "lower",
    "warrant",
    "adaptive",
    "adaptive_budget",
    "strict",
    "as_json",
)
"""Parameters that change nothing of what is evaluated."""
_WITH_VNNLIB = ("model", "specs", "time_limit", "seed", "out", "as_json")
"""Parameters that mean something where specs are answered."""

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
  robustkit eval net.onnx --vnnlib prop_7.vnnlib --time-limit 120
"""


@click.command("eval", help=_EVAL_HELP)
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
@click.option("--target", type=Target(), help="Class to be reached instead of any.")
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
@seed_option
@model_options
@click.option(
    "--pool",
    metavar="DATA",
    help="Other inputs that attacks may start from, those first whose label is what is "
    "aimed at; results then depend on them.",
)
@click.option(
    "--cache",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the answers of a model at an address, and ask nothing twice.",
)
@click.option(
    "--header",
    "headers",
    type=Header(),
    multiple=True,
    help="Sent to an address, such as 'Authorization=Bearer ENV:API_KEY'; ENV:VARIABLE "
    "stands for that of the environment.",
)
@click.option(
    "--warrant",
    is_flag=True,
    help="Then test each attack on adversarials known to exist (see robustkit test).",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="Then answer the findings: remedies in turn, each with its new number.",
)
@click.option(
    "--adaptive-budget",
    type=click.IntRange(min=1),
    metavar="PASSES",
    help="Per sample, for all remedies of a norm together.  [default: 20 x --budget, "
    "or 20,000]",
)
@click.option(
    "--lower",
    metavar="METHOD|FILE",
    help="Then bound distances from below: interval, crown, exact, or a file.",
)
@click.option(
    "--shard",
    type=Part(),
    help="Evaluate one part of the data, such as 3/16; see `robustkit merge`.",
)
@click.option(
    "--compiled", is_flag=True, help="Compile the attacks' arithmetic, for long runs."
)
@click.option(
    "--time-limit",
    type=float,
    help="Seconds for each attack on each batch, or for each SPEC.",
)
@click.option(
    "--vnnlib",
    "specs",
    type=click.Path(),
    multiple=True,
    metavar="SPEC",
    help="Answer VNN-LIB problems instead (see robustkit vnnlib); may be repeated.",
)
@engine_options
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
@strict_option
@json_option("Print summary.json only.")
@progress_option
def evaluate_command(
    model: str | None,
    data: str | None,
    norms: tuple[str, ...],
    attacks: str,
    epsilons: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    warrant: bool,
    adaptive: bool,
    adaptive_budget: int | None,
    lower: str | None,
    specs: tuple[str, ...],
    out: str | None,
    resume: str | None,
    strict: bool,
    as_json: bool,
    engine: str,
    workers: int | None,
    num_gpus: float | None,
    ray_address: str | None,
    **settings: Any,
) -> None:
    """See _EVAL_HELP."""
    if specs:
        _answer(model, specs, out, as_json, settings)
        return
    given = resume or out
    folder = Path(given) if given else None
    ours = folder is None or _is_ours(folder)
    with reporting_errors(lambda: folder if ours else None):
        if resume:
            _check_alone(click.get_current_context())
        else:
            model, data = defaults(model, data)
        _check_together(settings, adaptive, adaptive_budget)
        if folder is None:
            folder = fresh_folder(str(model))
        bounds = two(settings.pop("bounds"))
        from rich.console import Console

        from robustkit.evaluation.evaluate import evaluate
        from robustkit.evaluation.results import Results
        from robustkit.evaluation.resume import resume as go_on

        names, wanted = attacks.split(","), split(norms) or ["linf"]
        with prints_aside():
            if lower and resume:
                _check_lower_of_run(lower, Path(resume))
            elif lower:
                known = {**settings, "bounds": bounds}
                _check_lower(lower, model, data, wanted, known)
            if adaptive and not resume:
                names = _attacks_that_run(
                    model, data, names, wanted, bounds, headers, settings
                )
            worker = chosen_engine(engine, workers, num_gpus, ray_address)
            try:
                with progress_bar() as progress:
                    if resume:
                        results = go_on(resume, engine=worker, progress=progress)
                    else:
                        results = evaluate(
                            model,
                            data,
                            norm=wanted,
                            attacks=names,
                            epsilons=sizes(epsilons),
                            headers=dict(headers) or None,
                            bounds=bounds,
                            engine=worker,
                            out=folder,
                            progress=progress,
                            **settings,
                        )
                # What follows is written there, whoever began the run.
                ours = True
                _add_bounds_and_verdicts(results, lower, warrant)
                findings = _findings(results)
                adapted = _adapted(results, adaptive_budget) if adaptive else None
            except BaseException:
                # A report of what was finished; the error says why it is no more.
                with contextlib.suppress(Exception):
                    if ours:
                        Results(folder).report()
                raise
        show(results, as_json, Console(), findings, adapted)
    if strict and findings.invalid:
        sys.exit(3)


@click.command("merge")
@click.argument("out", type=click.Path())
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@json_option("Print summary.json only.")
def merge_command(out: str, runs: tuple[str, ...], as_json: bool) -> None:
    """Join the runs of all parts of an evaluation to one run folder, OUT.

    \b
    Example, for two nodes of a cluster:
      robustkit eval model.py:build --data test.npz --shard 1/2 --out part-1
      robustkit eval model.py:build --data test.npz --shard 2/2 --out part-2
      robustkit merge whole part-1 part-2
    """
    with reporting_errors(lambda: None):
        from rich.console import Console

        from robustkit.evaluation.merge import merge

        with prints_aside():
            results = merge(runs, out)
            findings = _findings(results)
        show(results, as_json, Console(), findings)


def _answer(
    model: str | None,
    specs: Sequence[str],
    out: str | None,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """What `eval --vnnlib` does in place of an evaluation."""
    with reporting_errors(lambda: None):
        _check_specs_alone(click.get_current_context())
        if model is None:
            raise BadInput("--vnnlib needs a MODEL: the ONNX file it is about")
        limit = settings["time_limit"]
        answer_specs(
            model,
            specs,
            timeout=TIMEOUT if limit is None else limit,
            seed=settings["seed"],
            out=out,
            as_json=as_json,
        )


def _check_together(
    settings: dict[str, Any], adaptive: bool, adaptive_budget: int | None
) -> None:
    """Refuse options that do not go together, or not without another one."""
    if adaptive and settings["access"] != "gradient":
        raise BadInput(
            "--adaptive mends gradients; with --access "
            f"{settings['access']} there are none to mend"
        )
    given = settings["mean"] is not None, settings["std"] is not None
    if any(given) and not all(given):
        there, missing = ("mean", "std") if given[0] else ("std", "mean")
        raise BadInput(
            f"--{there} was given without --{missing}; give both (--mean 0 and "
            "--std 1 change nothing)"
        )
    if adaptive_budget is not None and not adaptive:
        raise BadInput("--adaptive-budget is for --adaptive, which was not given")


def _add_bounds_and_verdicts(
    results: "Results", lower: str | None, warrant: bool
) -> None:
    """What was asked for beside the attacks, kept in the run folder."""
    asked = results.run["asked"]
    model, data = asked["model"], asked["data"]
    if lower:
        from robustkit.active_tests.lower import bound_below

        bound_below(results, model, data, lower, progress=say)
    if warrant:
        from robustkit.active_tests.warrant import warrant as warranted

        warranted(results, model, data, asked["attacks"], progress=say)


def _findings(results: "Results") -> "Findings":
    """What the checks say of a run, kept in its folder."""
    from robustkit.checks.check import check_results

    findings = check_results(results)
    findings.save(results.path)
    return findings


def _check_lower(
    method: str,
    model: str | None,
    data: str | None,
    norms: Sequence[str],
    settings: dict[str, Any],
) -> None:
    """Whether distances of a run with these settings can be bounded from below.

    Asked before it, since an evaluation may take hours.
    """
    from robustkit.active_tests.lower import check_method, check_network
    from robustkit.numerics.norms import get_norm

    check_method(method, [repr(get_norm(norm)) for norm in norms])
    names = ("bounds", "device", "mean", "std")
    check_network(method, model, data, **{name: settings[name] for name in names})


def _check_lower_of_run(method: str, run: Path) -> None:
    """Likewise, for a run that is there."""
    from robustkit.evaluation.store import read_json

    description = read_json(run / "run.json")
    asked, config = description["asked"], description["config"]
    if asked["model"] and asked["data"]:
        _check_lower(method, asked["model"], asked["data"], config["norms"], config)


def _attacks_that_run(
    model: str | None,
    data: str | None,
    attacks: list[str],
    norms: list[str],
    bounds: tuple[float, float] | None,
    headers: tuple[tuple[str, str], ...],
    settings: dict[str, Any],
) -> list[str]:
    """The attacks, or others where the model has no gradients for them to follow."""
    from robustkit.adaptive.plain import attacks_that_run

    known = {name: settings[name] for name in ("mean", "std", "device", "cache")}
    known["headers"] = dict(headers) or None
    found = attacks_that_run(model, data, attacks, norms, bounds=bounds, **known)
    if found != attacks:
        click.echo(
            f"the model has no gradients; the plain evaluation is by "
            f"{', '.join(found)}, and the remedies look for some",
            err=True,
        )
    return found


def _adapted(results: "Results", total: int | None) -> "Adaptation":
    """What answering the findings changed, kept in the run folder."""
    from robustkit.adaptive.adapt import adapt

    asked = results.run["asked"]
    adapted = adapt(results, asked["model"], asked["data"], total=total, progress=say)
    adapted.save(results.path)
    return adapted


def show(
    results: "Results",
    as_json: bool,
    console: "Console",
    findings: "Findings | None" = None,
    adapted: "Adaptation | None" = None,
) -> None:
    """The end of a run: its report, and its tables or its summary."""
    from robustkit.report.terminal import (
        print_adaptation,
        print_findings,
        print_results,
    )

    report = results.report()
    if as_json:
        click.echo((results.path / "summary.json").read_text(), nl=False)
        return
    print_results(results, console)
    if findings is not None and findings.findings:
        print_findings(findings, console)
    if adapted is not None:
        print_adaptation(adapted, console)
    click.echo(f"\nreport: {report}")


def _is_ours(folder: Path) -> bool:
    """Whether what is in a folder is there, or will be, by our doing."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return True
    from robustkit.evaluation.store import unfinished

    return unfinished(folder)


def _check_alone(context: click.Context) -> None:
    """Refuse options that a run which goes on cannot follow."""
    others = _typed(context, (*_WITH_RESUME, *ENGINE_OPTIONS))
    if others:
        raise BadInput(
            "--resume goes on with a run as it was begun, so it goes with --lower, "
            "--warrant, --adaptive, --adaptive-budget, --strict, --json, --progress "
            f"and the choice of an engine only; leave out {others}"
        )


def _check_specs_alone(context: click.Context) -> None:
    """Refuse options that say nothing about a spec."""
    others = _typed(context, _WITH_VNNLIB)
    if others:
        raise BadInput(
            "--vnnlib answers specs, which say themselves what is asked, so it goes "
            f"with --time-limit, --seed, --out and --json only; leave out {others}"
        )


def _typed(context: click.Context, allowed: Sequence[str]) -> str:
    """The names of parameters that were typed, but for those that may be."""
    typed = click.core.ParameterSource.COMMANDLINE
    return ", ".join(
        sorted(
            _shown(parameter)
            for parameter in context.command.params
            if parameter.name not in (*allowed, "config", "progress")
            and context.get_parameter_source(str(parameter.name)) is typed
        )
    )


def _shown(parameter: click.Parameter) -> str:
    """A parameter as people type it."""
    return parameter.opts[0] if parameter.opts[0].startswith("-") else "MODEL"
