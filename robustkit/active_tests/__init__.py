"""Attack unit tests: could this attack have found what is known to be there?"""
