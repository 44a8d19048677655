"""Makes findings.png beside this file: the findings of a report, for the explanation.

Of the demo network behind a jagged input, which hides its gradients: the checks find
them shattered, and Square comes nearer than what follows them. Needs what
`make_report_picture.py` needs.

    python docs/pictures/make_findings_picture.py
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import make_report_picture as camera
import numpy as np
import torch

import robustkit as rk
from robustkit import demo
from robustkit.checks.check import Findings
from robustkit.report import write_report

PICTURE = Path(__file__).with_name("findings.png")
SHOWN = ("C5", "G3", "S4", "S2")
WIDTH, HEIGHT = 900, 2320


class Jagged(torch.nn.Module):
    """Its answers are those of the demo network, its gradients are none."""

    def __init__(self) -> None:
        super().__init__()
        self.network = demo.load_model("digits")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From images (n, 1, 8, 8) to logits (n, 10)."""
        return self.network(x + 0.01 * torch.sin(2000 * x))


def main() -> None:
    """Evaluate, check, and photograph the findings."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    browser = next(filter(None, map(shutil.which, camera.BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs one of {', '.join(camera.BROWSERS)} on the PATH")
    model = Jagged().eval()
    data = tuple(
        np.asarray(values)[: asked.samples] for values in demo.load_data("digits")
    )
    attacks = {
        "pgd": rk.get_attack("pgd").within(40),
        "square": rk.get_attack("square").within(600),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = rk.evaluate(model, data, attacks=attacks, out=folder / "run")
        found = rk.check(model, data, run=results)
        some = {f.id: f for f in found.findings if f.id in SHOWN}
        Findings(tuple(some.values()), found.samples, found.measured).save(results.path)
        page = write_report(results)
        text = page.read_text(encoding="utf-8")
        # The findings alone.
        before = text.partition("<header>")[0]
        start = '<section id="findings">'
        section = text.partition(start)[2].partition("</section>")[0]
        page.write_text(f"{before}{start}{section}</section></main></body></html>")
        options = [o for o in camera.OPTIONS if not o.startswith("--window-size")]
        subprocess.run(
            [
                browser,
                *options,
                f"--window-size={WIDTH},{HEIGHT}",
                f"--user-data-dir={folder / 'browser'}",
                f"--screenshot={asked.out.resolve()}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
