"""What benchmarks are read with: `fastsched bench`'s rows, and the report and comparison of result files."""

import json
from types import SimpleNamespace

import compare
import pytest
import report

from fastsched import _bench


def info(own, baseline, *, noise=0.0, name="torch fused", **more):
    """A case's figures, whose quartiles lie `noise` below and above each median."""
    values = {"own": own, "baseline": baseline, "ratio": baseline / own}
    figures = {}
    for key, value in values.items():
        figures |= {f"{key}_median": value, f"{key}_q1": value * (1 - noise), f"{key}_q3": value * (1 + noise)}
    return {"baseline": name, "calls": 1, "short": True, **figures, **more}


def results(**cases):
    """A result file's contents; a case named after a file of benchmarks/ is of that file."""
    return {
        "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}, "python_version": "3.11.7"},
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "versions": {"torch": "2.13.0"},
        "threads": 2,
        "backend": "native, avx2",
        "load": 0.25,
        "ceilings": [{"fill": 1e10, report.LOOP: 2e10}, {"fill": 1e10, report.LOOP: 2e10}],
        "benchmarks": [
            {"fullname": f"benchmarks/{name if name in report.TITLES else 'bench_sweeps'}.py::test", "group": name}
            | {"extra_info": figures}
            for name, figures in cases.items()
        ],
    }


def saved(folder, name, **cases):
    path = folder / name
    path.write_text(json.dumps(results(**cases)), encoding="utf-8")
    return str(path)


# ---- fastsched bench


def test_a_rows_spread_is_half_the_interquartile_range_over_the_median():
    assert _bench._spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (4.0 - 2.0) / 2 / 3.0


def test_a_single_round_has_no_spread():
    assert _bench._spread([1.0]) == 0.0


def test_ceilings_are_of_fill_and_copy():
    found = _bench.ceilings(rounds=1)
    assert found.keys() == {"fill", "copy"}
    assert all(speed > 0.0 for speed in found.values())


def test_sides_run_in_turn():
    calls = []
    _bench._medians(3, lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "b"] * 4


def test_the_first_round_only_warms_up(monkeypatch):
    now, lasting = 0.0, iter([100.0, 1.0])

    def side():
        nonlocal now
        now += next(lasting)

    monkeypatch.setattr(_bench, "time", SimpleNamespace(perf_counter=lambda: now))
    assert _bench._medians(1, side) == [(1.0, 0.0)]


def test_values_that_differ_are_no_row():
    with pytest.raises(AssertionError, match="bench: both must come to the same lrs"):
        _bench._check("lrs", [1.0], [1.1], 1e-9)


# ---- report.py


def reported(root, **cases):
    """The README after a report into a folder."""
    readme = root / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.main([saved(root, "new.json", **cases), "--root", str(root)])
    return readme.read_text(encoding="utf-8")


def test_a_report_has_each_case_with_its_baseline_spread_and_ratio():
    data = results(case=info(1e-3, 2e-3, noise=0.1))
    (line,) = [line for line in report.tables(data) if "case" in line]
    assert line == "| case | torch fused: 2 ms ± 10% | 1 ms ± 10% | 2 ± 10% |  |"


def test_a_run_has_the_share_that_its_updates_took():
    data = results(case=info(1.0, 2.0, own_share=0.05, baseline_share=0.1))
    (line,) = [line for line in report.tables(data) if "case" in line]
    assert line == "| case | torch fused: 2 s ± 0%, of which 10.0% | 1 s ± 0%, of which 5.0% | 2 ± 0% |  |"


def test_an_import_has_its_memory():
    data = results(case=info(1.0, 2.0, own_memory=30e6, baseline_memory=20e6))
    (line,) = [line for line in report.tables(data) if "case" in line]
    assert line == "| case | torch fused: 2 s ± 0%, 20 MB | 1 s ± 0%, 30 MB | 2 ± 0% |  |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.5 s"), (1234.5, "1,234 s"), (0.01234, "12.3 ms"), (4.567e-5, "45.7 µs"), (3.2e-7, "320 ns")],
)
def test_durations_have_three_digits_and_no_exponent(value, text):
    assert report.seconds(value) == text


def test_a_report_names_machine_load_versions_and_commit():
    text = "\n".join(report.machine(results()))
    made = "A CPU, 2 cores, 2 threads; native, avx2; Python 3.11.7, torch 2.13.0; commit 0123456789ab, 2026-01-02."
    assert text.startswith(f"{made} Load before the first case: 0.25.")
    assert "read 4, write 3 20.0 and 20.0 GB/s" in text


def test_the_share_of_the_bandwidth_is_of_the_loop_in_the_same_file():
    data = results(case=info(0.1, 0.2, moved=10**9))
    assert report.share(data["benchmarks"][0]["extra_info"], data) == 0.5  # 1e10 of 2e10 bytes per second


def test_what_lies_in_the_caches_has_no_share():
    data = results(case=info(0.1, 0.2, moved=report.CACHED))
    assert "| 2 ± 0% |  |" in report.tables(data)[4]


def test_the_readme_has_the_short_set_of_the_headline_only(tmp_path):
    long = info(1e-3, 2e-3) | {"short": False}
    text = reported(tmp_path, bench_step=info(1e-3, 2e-3), bench_composition=long, bench_rules=info(1e-3, 2e-3))
    assert "| bench_step |" in text
    assert "bench_composition" not in text
    assert "bench_rules" not in text


def test_the_results_have_all_cases(tmp_path):
    long = info(1e-3, 2e-3) | {"short": False}
    reported(tmp_path, bench_step=info(1e-3, 2e-3), bench_composition=long)
    text = (tmp_path / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    assert "| bench_step |" in text
    assert "| bench_composition |" in text


def test_the_readme_changes_between_its_markers_alone():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.replaced(text, ["new"]) == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_a_second_report_changes_nothing():
    once = report.replaced(f"{report.BEGIN}\n{report.END}\n", ["new", ""])
    assert report.replaced(once, ["new", ""]) == once


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}\n{report.BEGIN}", f"{report.BEGIN * 2}{report.END}"])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(SystemExit, match="the README must have one"):
        report.replaced(text, [])


def test_a_file_without_the_machine_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"benchmarks": []}), encoding="utf-8")
    with pytest.raises(SystemExit, match="must be made with benchmarks/conftest"):
        report.main([str(path), "--root", str(tmp_path)])


BY_GROUPS = {"a": info(1e-3, 2e-3, point=["groups", 1]), "b": info(1e-3, 4e-3, point=["groups", 10])}


def test_a_picture_has_the_points_of_its_cases():
    assert report.points(results(**BY_GROUPS), "groups") == {
        "fastsched": [(1, 1e-3), (10, 1e-3)],
        "torch fused": [(1, 2e-3), (10, 4e-3)],
    }


def test_the_bandwidth_of_both_is_a_share_of_the_loop():
    data = results(case=info(0.1, 0.2, moved=10**9, point=["elements", 100]))
    assert report.shares(data) == {"fastsched": [(100, 50.0)], "torch fused": [(100, 25.0)]}


def test_pictures_are_drawn_where_there_are_points(tmp_path):
    assert list(report.pictures(results(**BY_GROUPS), tmp_path)) == ["groups"]
    assert [path.name for path in tmp_path.iterdir()] == ["groups.svg"]


def test_the_same_figures_make_the_same_picture(tmp_path):
    for name in ("1", "2"):
        report.pictures(results(**BY_GROUPS), tmp_path / name)
    first, second = ((tmp_path / name / "groups.svg").read_bytes() for name in ("1", "2"))
    assert first == second


def test_the_readme_links_its_pictures(tmp_path):
    text = reported(tmp_path, **BY_GROUPS)
    (line,) = [line for line in text.splitlines() if line.startswith("![")]
    assert (tmp_path / line.partition("](")[2].rstrip(")")).is_file()


# ---- compare.py


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        pytest.param(info(1.21, 2.0), "slower", id="slower"),
        pytest.param(info(1.19, 2.0), "", id="within the least noise"),
        pytest.param(info(0.8, 2.0), "faster", id="faster"),
        pytest.param(info(2.0, 4.0), "", id="on a machine twice as busy"),
        pytest.param(info(1.4, 2.0, noise=0.4), "", id="within its own noise"),
    ],
)
def test_a_verdict_is_relative_to_the_baseline_and_beyond_the_noise(new, verdict):
    ((_, _, found, _),) = compare.verdicts([{"case": info(1.0, 2.0)}], [{"case": new}])
    assert found == verdict


def test_beside_our_own_baseline_the_plain_time_decides():
    name = "fastsched, in 1 group"
    old, new = info(1.0, 1.0, name=name), info(2.0, 2.0, name=name)
    ((change, _, verdict, _),) = compare.verdicts([{"case": old}], [{"case": new}])
    assert (change, verdict) == (2.0, "slower")


def test_a_case_with_another_baseline_is_not_compared():
    assert compare.verdicts([{"case": info(1.0, 2.0)}], [{"case": info(1.0, 2.0, name="torch foreach")}]) == []


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1.0, 1.1), (1.4, 1.5), "slower"),
        ((1.0, 1.3), (1.4, 1.5), ""),
        ((1.4, 1.5), (1.0, 1.1), "faster"),
        ((1.4, 1.5), (1.0, 1.3), ""),
    ],
)
def test_of_several_runs_the_nearest_decide(old, new, verdict):
    before, after = ([{"case": info(own, 2.0)} for own in side] for side in (old, new))
    ((_, _, found, _),) = compare.verdicts(before, after)
    assert found == verdict


def test_a_case_that_a_run_lacks_is_left_out():
    both, one = {"case": info(1.0, 2.0), "other": info(1.0, 2.0)}, {"case": info(1.0, 2.0)}
    assert [name for *_, name in compare.verdicts([both, one], [both])] == ["case"]


def test_compare_exits_with_1_if_a_case_is_slower(tmp_path, capsys):
    old = saved(tmp_path, "old.json", case=info(1.0, 2.0))
    new = saved(tmp_path, "new.json", case=info(2.0, 2.0))
    assert compare.main([old, "--new", new])
    assert not compare.main([new, old, "--new", old])
    assert "1 cases in all, 1 slower; 0 left out." in capsys.readouterr().out
