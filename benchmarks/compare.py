"""What became slower between two builds: python benchmarks/compare.py OLD.json ... --new NEW.json ...

The rule. A case's time is taken relative to the baseline that it ran in turn with, so that a busier machine changes
both. Noise is the larger of 20 % (--least) and the sum of the widest half interquartile ranges of both sides. A case is
slower if the fastest of the new runs exceeds the slowest of the old ones by more than its noise, and faster the other
way round: what differs from run to run (other pages of memory, another clock) is no finding where there are two runs of
each. Where the baseline is fastsched itself, a change could hide in both, and the plain time decides. The exit status
is 1 if any case is slower.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

LEAST = 0.2  # by more than that two runs of one build differed in 1 of 10 cases on a shared machine, at 5 % in 4


def relative(info):
    """(median, half interquartile range over it) of what a case is judged by."""
    if info["baseline"].startswith("fastsched"):
        middle, low, high = (info[f"own_{name}"] for name in ("median", "q1", "q3"))
    else:  # the ratio is baseline over ours
        middle, low, high = (1 / info[f"ratio_{name}"] for name in ("median", "q3", "q1"))
    return middle, (high - low) / 2 / middle


def loaded(path):
    """A file's contents, and {test: extra_info} of its cases that have a baseline."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    infos = {case["fullname"]: case["extra_info"] for case in data["benchmarks"]}
    return data, {name: info for name, info in infos.items() if "ratio_median" in info}


def verdicts(old, new, least=LEAST):
    """(change, noise, verdict, name) of every case that all files have, the slowest first."""
    files, found = [*old, *new], []
    for name in set.intersection(*map(set, files)):
        if len({infos[name]["baseline"] for infos in files}) > 1:
            continue
        (before, noise_before), (after, noise_after) = (
            zip(*(relative(infos[name]) for infos in side), strict=True) for side in (old, new)
        )
        noise = max(least, max(noise_before) + max(noise_after))
        slower = min(after) > max(before) * (1 + noise)
        faster = min(before) > max(after) * (1 + noise)
        verdict = "slower" if slower else "faster" if faster else ""
        found.append((median(after) / median(before), noise, verdict, name))
    return sorted(found, reverse=True)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="+")
    parser.add_argument("--new", nargs="+", required=True)
    parser.add_argument("--least", type=float, default=LEAST, help="of the noise, as a share: %(default)s")
    given = parser.parse_args(arguments)
    sides = [[loaded(path) for path in paths] for paths in (given.old, given.new)]
    for what in ("versions", "threads", "backend"):
        kinds = {json.dumps(data.get(what)) for side in sides for data, _ in side}
        if len(kinds) > 1:
            print(f"{what} differ: {' and '.join(sorted(kinds))}: baselines may have changed too\n")
    old, new = ([infos for _, infos in side] for side in sides)
    found = verdicts(old, new, given.least)
    print("| case | time, new over old | noise | verdict |\n|---|---|---|---|")
    for change, noise, verdict, name in found:
        if verdict:
            print(f"| {name} | {change:.3g} | ± {noise:.0%} | {verdict} |")
    slower = sum(verdict == "slower" for _, _, verdict, _ in found)
    left = len(set().union(*old, *new)) - len(found)
    print(f"\n{len(found)} cases in all, {slower} slower; {left} left out.")
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
