"""Which attacks of a run are there to be beaten."""

from collections.abc import Mapping

from robustkit.evaluation.results import Results

__all__ = ["baselines"]

# What attacks were called by, before runs kept what they are.
_NAMES = {
    "uniform-noise": "noise",
    "gaussian-noise": "noise",
    "salt-and-pepper": "noise",
    "fgsm": "single step",
}


def baselines(results: Results) -> Mapping[str, str]:
    """By name, "noise" or "single step": the run's attacks that are such a yardstick.

    By what the attacks say of themselves (`Attack.baseline`), whatever a user calls
    them; in older runs by robustkit's names for them.
    """
    said = results.run.get("attack_baseline")
    if said is None:
        return _NAMES
    return {name: kind for name, kind in said.items() if kind is not None}
