"""What became slower between two result files: python benchmarks/compare.py OLD.json NEW.json

The rule. A case's time is taken relative to the baseline that it ran in turn with, so that a busier machine changes
both. Its change is the ratio of the two medians, its noise the larger of 5 % and the sum of both files' half
interquartile ranges. It is slower if the change exceeds 1 + noise, faster below 1 / (1 + noise). Where the baseline is
fastsched itself, a change could hide in both, and the plain time decides. The exit status is 1 if any case is slower.
"""

import argparse
import json
import sys
from pathlib import Path

LEAST = 0.05  # medians of one build in turn differ by this much from run to run


def relative(info):
    """(median, half interquartile range over it) of what a case is judged by."""
    if info["baseline"].startswith("fastsched"):
        median, low, high = (info[f"own_{name}"] for name in ("median", "q1", "q3"))
    else:  # the ratio is baseline over ours
        median, low, high = (1 / info[f"ratio_{name}"] for name in ("median", "q3", "q1"))
    return median, (high - low) / 2 / median


def loaded(path):
    """A file's contents, and {test: extra_info} of its cases that have a baseline."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    infos = {case["fullname"]: case["extra_info"] for case in data["benchmarks"]}
    return data, {name: info for name, info in infos.items() if "ratio_median" in info}


def verdicts(old, new):
    """(change, noise, verdict, name) of every case of both, the slowest first; others are left out."""
    found = []
    for name in old.keys() & new.keys():
        if old[name]["baseline"] != new[name]["baseline"]:
            continue
        (before, noise_before), (after, noise_after) = relative(old[name]), relative(new[name])
        change, noise = after / before, max(LEAST, noise_before + noise_after)
        verdict = "slower" if change > 1 + noise else "faster" if change < 1 / (1 + noise) else ""
        found.append((change, noise, verdict, name))
    return sorted(found, reverse=True)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    given = parser.parse_args(arguments)
    (old_data, old), (new_data, new) = loaded(given.old), loaded(given.new)
    for what in ("versions", "threads", "backend"):
        if old_data.get(what) != new_data.get(what):
            print(f"{what} differ: {old_data.get(what)} and {new_data.get(what)}: baselines may have changed too\n")
    found = verdicts(old, new)
    print("| case | time, new over old | noise | verdict |\n|---|---|---|---|")
    for change, noise, verdict, name in found:
        if verdict:
            print(f"| {name} | {change:.3g} | ± {noise:.0%} | {verdict} |")
    slower = sum(verdict == "slower" for _, _, verdict, _ in found)
    print(f"\n{len(found)} cases in both, {slower} slower; {len(old | new) - len(found)} left out.")
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
