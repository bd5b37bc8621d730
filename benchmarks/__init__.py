"""
Benchmarks: how fast, how small and how flat, as ratios measured side by side.

::

    python -m benchmarks                     all of them, at sizes for a few minutes
    python -m benchmarks bulk --entries N    one of them, at any size
    python -m benchmarks build DIR --entries N, then size|verify|query --trail DIR
    python -m benchmarks profile bulk        where the time goes
    python -m benchmarks report FILE.json    the table of ``docs/performance.md``

Each benchmark is a module with a function ``run``; what it must reach stands in
`benchmarks.bars`. None of them is a test: a figure means something only beside
the one it was measured with, on the machine that is named above it.
"""
