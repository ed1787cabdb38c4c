"""What the kit costs, as ratios against something real in the same run: `python -m tests.benchmarks`.

Nothing here is a test and nothing asserts: a loaded machine would fail it, an idle one would hide a loss. Ratios of minima, taken
in turns, bear a busy machine much better than seconds do; still, compare a figure only with its own reference beside it.
"""
