"""Two artifacts that take turns: how much faster is the second?"""

import statistics

from tfcompress.benchmarking import benchmark


def speed_up(artifacts, inputs, runs, rounds):
    """Returns medians over the rounds, and the ratio with its spread."""
    measured = [
        benchmark(artifacts, inputs, threads=1, runs=runs) for _ in range(rounds)
    ]
    ratios = [first.median / second.median for first, second in measured]
    return {
        "first_ms": statistics.median(first.median for first, _ in measured),
        "second_ms": statistics.median(second.median for _, second in measured),
        "speed_up": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def cells(row):
    """Returns the last columns of a table of such figures."""
    return (
        f"{row['first_ms']:.2f} | {row['second_ms']:.2f} | {row['speed_up']:.2f}x "
        f"| {row['lowest']:.2f} to {row['highest']:.2f} |"
    )
