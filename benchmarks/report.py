"""Turn a pytest-benchmark JSON file into the README's table: python benchmarks/report.py FILE..."""

import json
import sys


def seconds(value):
    """A duration in the unit that shows three digits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:,.3g} {unit}" if value * factor < 1000 else f"{value * factor:,.0f} {unit}"
    return f"{value * 1e9:,.0f} ns"


def main(paths):
    machine = None
    print("| what | fastsched | baseline | ratio |\n|---|---|---|---|")
    for path in paths:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        machine = data["machine_info"], data["commit_info"]
        for case in data["benchmarks"]:
            info = case["extra_info"]
            own = case["stats"]["median"] / info["calls"]
            baseline = info["baseline_median"]
            print(f"| {case['group']} | {seconds(own)} | {info['baseline']}: {seconds(baseline)} ", end="")
            print(f"| {baseline / own:.3g}", end="")
            if "share" in info:  # of a whole run, what optimizer and scheduler took
                print(f"; share {info['baseline_share']:.1%} -> {info['share']:.1%}", end="")
            print(" |")
    if machine:
        info, commit = machine
        dirty = " (modified)" if commit.get("dirty") else ""
        print(f"\n{info['cpu'].get('brand_raw', 'unknown CPU')}, {info['cpu'].get('count')} cores, ", end="")
        print(f"Python {info['python_version']}, commit {commit['id'][:12]}{dirty}; medians.")


if __name__ == "__main__":
    main(sys.argv[1:])
