"""Turn pytest-benchmark's JSON into Markdown and pictures, so that no figure is typed by hand.

python benchmarks/report.py RESULTS.json [--root FOLDER]

writes into a folder, by default this repository: benchmarks/RESULTS.md (all cases), benchmarks/figures/*.svg (where the
file has their points), and the part of README.md between `<!-- figures -->` and `<!-- /figures -->` (the short set's
cases of HEADLINE, and IN_README of the pictures).
"""

import argparse
import json
import sys
from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
LOOP = "read 4, write 3"  # the ceiling that shares refer to
CACHED = 2**28  # bytes: what moves less lies in the caches, and memory is no limit of it
TITLES = {
    "bench_step": "Steps",
    "bench_composition": "Whole steps",
    "bench_sweeps": "Steps over groups and sizes",
    "bench_rules": "Rules, dtypes and options",
    "bench_groups": "Ten thousand groups",
    "bench_reading": "Before the arithmetic",
    "bench_schedulers": "Schedulers",
    "bench_tables": "Tables and values",
    "bench_training": "Training runs",
    "bench_import": "Import and install",
}
HEADLINE = ("bench_step", "bench_composition", "bench_tables", "bench_training")
IN_README = ("groups", "bandwidth")


def seconds(value):
    """A duration in the unit that shows three digits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{significant(value * factor)} {unit}"
    return f"{significant(value * 1e9)} ns"


def significant(value):
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def spread(info, name):
    """Half of the interquartile range over the median."""
    return (info[f"{name}_q3"] - info[f"{name}_q1"]) / 2 / info[f"{name}_median"]


def section(case):
    """The name of the file that measured a case."""
    return Path(case["fullname"].partition("::")[0]).stem


def share(info, data):
    """Of the bandwidth of the loop that moves a step's bytes, or None."""
    found = [ceilings[LOOP] for ceilings in data["ceilings"] if LOOP in ceilings]
    return info["moved"] / info["own_median"] / max(found) if found and "moved" in info else None


def row(case, data):
    info = case["extra_info"]

    def side(name):
        text = f"{seconds(info[f'{name}_median'])} ± {spread(info, name):.0%}"
        if f"{name}_memory" in info:
            text += f", {info[f'{name}_memory'] / 1e6:,.0f} MB"
        if f"{name}_share" in info:
            text += f", of which {info[f'{name}_share']:.1%}"
        return text

    ratio = f"{significant(info['ratio_median'])} ± {spread(info, 'ratio'):.0%}"
    part = share(info, data)
    part = f"{part:.0%}" if part and info["moved"] > CACHED else ""
    return f"| {case['group']} | {info['baseline']}: {side('baseline')} | {side('own')} | {ratio} | {part} |"


def tables(data, *, headline=False):
    """Markdown of all cases, or of the short set's of HEADLINE, by the files that measured them."""
    lines = []
    for name, title in TITLES.items():
        rows = [
            row(case, data)
            for case in data["benchmarks"]
            if section(case) == name
            and "ratio_median" in case["extra_info"]
            and (not headline or (name in HEADLINE and case["extra_info"]["short"]))
        ]
        if rows:
            head = [] if headline else [f"## {title}", ""]
            lines += [*head, f"| {title} | baseline | fastsched | faster by | of the bandwidth |"]
            lines += ["|---|---|---|---|---|", *rows, ""]
    return lines


def memory(figures):
    """Markdown of what bench_temporaries.py has counted."""
    rows = [
        f"| {name} | {found['allocations']:,} | {found['largest']:,} | {found['peak']:,} | {found['kept']:,} |"
        for name, found in figures.items()
    ]
    return [
        "| a third step; bytes | allocations | the largest | all at once | optimizer and state keep |",
        "|---|---|---|---|---|",
        *rows,
    ]


def machine(data):
    """Where and with what a file was made."""
    info, commit = data["machine_info"], data["commit_info"]
    versions = ", ".join(f"{name} {found}" for name, found in data["versions"].items())
    ceilings = "; ".join(
        f"{name} {' and '.join(f'{found[name] / 1e9:.1f}' for found in data['ceilings'])} GB/s"
        for name in data["ceilings"][0]
    )
    changed = " (modified)" if commit.get("dirty") else ""
    return [
        f"{info['cpu'].get('brand_raw', 'unknown CPU')}, {info['cpu'].get('count')} cores, {data['threads']} threads; "
        f"{data['backend']}; Python {info['python_version']}, {versions}; commit {commit['id'][:12]}{changed}, "
        f"{data['datetime'][:10]}. Load before the first case: {data['load']:.2f}. "
        f"Memory before it and after the last: {ceilings}.",
        "",
        "Each case runs in turn with its baseline: medians, ± half of the interquartile range; the ratio is of "
        "neighbours in time. In training runs, the second figure is the share of clipping, optimizer and scheduler. "
        "The bandwidth is that of a loop that reads four arrays and writes three; what moves less than "
        f"{CACHED / 1e6:.0f} MB lies in the caches and has no share.",
        "",
    ]


# ---- pictures


def points(data, picture):
    """{line: [(x, seconds)]} and ours, over the cases of a picture; where several have one x, the fastest of ours."""
    lines, own = {}, {}
    for case in data["benchmarks"]:
        info = case["extra_info"]
        name, x = info.get("point", (None, None))
        if name == picture:
            lines.setdefault(info["baseline"], []).append((x, info["baseline_median"]))
            own[x] = min(own.get(x, info["own_median"]), info["own_median"])
    return {"fastsched": sorted(own.items()), **{name: sorted(values) for name, values in lines.items()}}


def shares(data):
    """{line: [(elements, percent of the bandwidth)]} of one tensor, ours and torch's fused."""
    lines = {"fastsched": [], "torch fused": []}
    for case in data["benchmarks"]:
        info = case["extra_info"]
        part = share(info, data)
        if info.get("point", [None])[0] == "elements" and info["baseline"] == "torch fused" and part:
            for name, side in zip(lines, ("own", "baseline"), strict=True):
                percent = 100 * part * info["own_median"] / info[f"{side}_median"]
                lines[name].append((info["point"][1], percent))
    return {name: sorted(values) for name, values in lines.items()}


def draw(lines, path, *, title, **labels):
    """Lines of points over a logarithmic axis, as an SVG that is the same for the same figures."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for name, values in lines.items():
        axes.plot(*zip(*values, strict=True), marker="o", markersize=3, label=name)
    axes.set(xscale="log", **labels)
    axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.legend(loc="outside right center")
    with plt.rc_context({"svg.hashsalt": "fastsched", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def pictures(data, folder):
    """Draw what the file has points for; returns {name: text}."""
    times = {
        "groups": "A scheduled step of AdamW: 1,000 tensors of 256 elements in some groups",
        "elements": "A step of AdamW: one float32 tensor of some elements",
        "columns": "A table: 10,000 rows of some float32 columns",
    }
    done = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, title in times.items():
        lines = points(data, name)
        if lines["fastsched"]:
            lines = {line: [(x, 1e6 * value) for x, value in values] for line, values in lines.items()}
            draw(lines, folder / f"{name}.svg", yscale="log", xlabel=name, ylabel="µs", title=title)
            done[name] = title
    lines = shares(data)
    if lines["fastsched"]:
        title = "Share of memory's bandwidth; above 100 % a step stays in the caches"
        draw(lines, folder / "bandwidth.svg", yscale="linear", xlabel="elements", ylabel="%", title=title)
        done["bandwidth"] = title
    return done


# ---- the files


def replaced(text, lines):
    """The text with these lines between the two markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"report: the README must have one {BEGIN} and, after it, one {END}; add the two lines")
    head, _, rest = text.partition(BEGIN)
    return head + "\n".join([BEGIN, "", *lines]).rstrip() + "\n\n" + END + rest.partition(END)[2]


def write(data, root):
    """The report's files in a folder that has a README.md."""
    readme, folder = root / "README.md", root / "benchmarks"
    drawn = pictures(data, folder / "figures")

    def images(names, where):
        return [line for name in names if name in drawn for line in (f"![{drawn[name]}]({where}/{name}.svg)", "")]

    about = machine(data)
    lines = [*tables(data, headline=True), *images(IN_README, "benchmarks/figures"), *about]
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), lines), encoding="utf-8")
    counted = ["## Memory", "", *memory(data["memory"]), ""] if "memory" in data else []
    lines = ["# Results", "", "Written by `report.py`.", "", *about, *images(drawn, "figures"), *tables(data), *counted]
    (folder / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    given = parser.parse_args(arguments)
    data = json.loads(given.results.read_text(encoding="utf-8"))
    if not {"load", "ceilings"} <= data.keys():
        raise SystemExit(f"report: a file must be made with benchmarks/conftest.py, got {given.results}; run it again")
    write(data, given.root)


if __name__ == "__main__":
    main(sys.argv[1:])
