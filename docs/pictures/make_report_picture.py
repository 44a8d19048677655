"""Makes report.png beside this file: the top of a real report, for the README.

Needs Chromium (any recent version) and, for the letters of the committed picture,
the font Inter (Debian: fonts-inter). Run from anywhere:

    python docs/pictures/make_report_picture.py [--out FILE] [--samples N]

The results do not depend on the machine; the timings below the picture's edge do.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import robustkit as rk
from robustkit.report import write_report

WIDTH, HEIGHT = 1200, 1290
PICTURE = Path(__file__).with_name("report.png")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--window-size={WIDTH},{HEIGHT}",
)


def main() -> None:
    """Evaluate the demo network on the demo images and photograph the report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--samples", type=int, help="so many of them; all by default")
    asked = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs one of {', '.join(BROWSERS)} on the PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = rk.evaluate(
            "digits",
            "digits",
            norm=["linf", "l2"],
            samples=asked.samples,
            out=folder / "run",
        )
        page = write_report(results)
        subprocess.run(
            [
                browser,
                *OPTIONS,
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
