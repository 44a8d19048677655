"""What run folders hold, for tests that compare two."""

_FILES = ("best.npz", "queries.csv", "examples.npz", "traces.npz")


def contents(run):
    """Rows of samples.csv without the column of seconds, and the other files' bytes."""
    lines = (run / "samples.csv").read_text().splitlines()
    place = lines[0].split(",").index("seconds")
    rows = [line.split(",") for line in lines]
    table = [row[:place] + row[place + 1 :] for row in rows]
    there = [name for name in _FILES if (run / name).exists()]
    return table, {name: (run / name).read_bytes() for name in there}
