import sys
from pathlib import Path

# So that the tests also run where the package is not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
