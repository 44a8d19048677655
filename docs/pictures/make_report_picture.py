"""Makes report.png beside this file: the top of a real report, for the README.

Needs Chromium (any recent version) and, for the letters of the committed picture,
the font Inter (Debian: fonts-inter). Run from anywhere:

    python docs/pictures/make_report_picture.py

The results do not depend on the machine; the timings below the picture's edge do.
"""

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
    """Evaluate the demo network on all demo images and photograph the report."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs one of {', '.join(BROWSERS)} on the PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = rk.evaluate(
            "digits",
            "digits",
            norm=["linf", "l2"],
            out=folder / "run",
        )
        page = write_report(results)
        subprocess.run(
            [
                browser,
                *OPTIONS,
                f"--user-data-dir={folder / 'browser'}",
                f"--screenshot={PICTURE}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
