import sys
from pathlib import Path

# So that the tests can import the attacks beside them.
sys.path.insert(0, str(Path(__file__).parent))
