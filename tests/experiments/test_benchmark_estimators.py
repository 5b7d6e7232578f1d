"""The benchmark of estimators: its cells, going on, sharing, errors and the table."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import benchmark_estimators
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accuracy import cell_log, measuring, plot, summary
from accuracy.config import ROWS, Benchmark, Speed
from PIL import Image

from miue_jax import _command_line, _settings
from miue_jax.information import Estimate, estimators, tasks
from miue_jax.train import loop, run_directory
from miue_jax.workflows import estimator_table
from miue_jax.workflows import table as readme_table

SCRIPT = pathlib.Path(benchmark_estimators.__file__)
SMALL, LARGE = "1v1-normal-0.75", "multinormal-dense-25-25-0.5"


def make_config(**changes):
    settings = {
        "rows": ("gaussian_plug_in", "gaussian_corrected"),
        "tasks": (SMALL, LARGE),
        # Of 40 samples of 25 + 25 dimensions there is no Gaussian.
        "sizes": (60, 40),
        "seeds": (0, 1),
        "speed": Speed(size=60, dim=12, classes=3, repeats=2),
    }
    return Benchmark(**{**settings, **changes})


def read_lines(workdir):
    text = (workdir / cell_log.FILE).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    return [json.loads(line) for line in text.splitlines()]


def cell_of(row):
    return cell_log.Cell(*(row[name] for name in cell_log.Cell._fields))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("benchmark") / "run"
    return workdir, benchmark_estimators.run(make_config(), workdir)


@pytest.fixture
def counted(monkeypatch):
    """Stands in for measuring: how often, and of what."""
    measured = []

    def measure(call, task, draw, *, size, seed, compiled):
        measured.append((size, seed, call.keywords["correction"], task.name))
        return {
            "truth": task.information,
            "truth_error": 0.0,
            "dim_x": task.dim_x,
            "dim_y": task.dim_y,
            "estimate": 0.1 * len(measured),
            "standard_error": None,
            "failure": None,
            "seconds": 1.0,
            "cpu_seconds": 1.0,
            "diagnostics": {},
            "warnings": [],
        }

    monkeypatch.setattr(measuring, "measure", measure)
    return measured


# Running ---------------------------------------------------------------------------


def test_every_cell_is_a_row_cheap_ones_first(finished):
    workdir, results = finished
    rows = read_lines(workdir)
    assert [cell_of(row) for row in rows] == [
        (size, seed, label, task)
        for size in (40, 60)
        for seed in (0, 1)
        for label in ("gaussian_plug_in", "gaussian_corrected")
        for task in (SMALL, LARGE)
    ]
    assert results["finished"] == results["planned"] == len(rows) == 16
    assert run_directory.read_json(workdir / "results.json") == results
    assert (workdir / "table.md").read_text() == estimator_table.render(results)
    for size in (40, 60):
        assert (workdir / f"estimates-{size}.png").stat().st_size > 5000


def test_nearest_neighbors_within_classes_are_timed_once(finished):
    workdir, results = finished
    timed = results["conditional_ksg"]
    assert timed["first_seconds"] >= timed["median_seconds"] > 0
    assert (timed["size"], timed["dim"]) == (60, 12)
    assert (
        "KSG within 3 classes of 60 samples in 12 dimensions"
        in estimator_table.render(results)
    )
    again = benchmark_estimators.run(make_config(), workdir)
    assert again["conditional_ksg"] == timed


def test_a_row_says_what_came_out_or_why_nothing(finished):
    for row in read_lines(finished[0]):
        assert row["truth"] == tasks.create(row["task"]).information
        if (row["size"], row["task"]) == (40, LARGE):
            assert row["failure"].startswith("40 samples of 25 + 25 dimensions")
            assert row["estimate"] is None
        else:
            assert row["failure"] is None
            assert math.isfinite(row["estimate"])
            assert 0 < row["standard_error"] < 1
            assert 0 < row["diagnostics"]["smallest_pivot"] < 1
            assert row["seconds"] > 0


def test_estimators_see_the_same_samples_and_seeds_differ(finished):
    found = {cell_of(row): row["estimate"] for row in read_lines(finished[0])}
    plug, corrected = (
        found[60, 0, f"gaussian_{kind}", SMALL] for kind in ("plug_in", "corrected")
    )
    # The correction depends on N only: 0.5 (psi(N/2 - 1/2) - psi(N/2 - 1)).
    assert plug - corrected == pytest.approx(0.5 / 57.5, rel=0.03)
    assert found[60, 1, "gaussian_plug_in", SMALL] != plug
    assert found[40, 0, "gaussian_plug_in", SMALL] != plug


def test_failures_are_counted_and_told(finished):
    results = finished[1]
    entries = {(e["size"], e["label"]): e for e in results["estimators"]}
    assert list(entries) == [
        (s, f"gaussian_{k}") for s in (40, 60) for k in ("plug_in", "corrected")
    ]
    lacking, whole = (entries[size, "gaussian_corrected"] for size in (40, 60))
    assert [f["seed"] for f in lacking["failures"]] == [0, 1]
    assert list(lacking["tasks"]) == [SMALL]
    assert lacking["mean_absolute_error"]["high"] is None
    assert not whole["failures"]
    assert list(whole["tasks"]) == [SMALL, LARGE]
    text = estimator_table.render(results)
    assert "Left out, as the estimator gave no value: Gaussian, plug-in: 2" in text


def test_only_what_is_missing_is_done_again(tmp_path, counted):
    benchmark_estimators.run(make_config(), tmp_path)
    assert len(counted) == 16
    before = read_lines(tmp_path)
    benchmark_estimators.run(make_config(), tmp_path)
    assert len(counted) == 16, "a finished benchmark was repeated"
    file = tmp_path / cell_log.FILE
    lines = file.read_text().splitlines(keepends=True)
    # Killed while it wrote the twelfth row.
    file.write_text("".join(lines[:11]) + lines[11][:30])
    results = benchmark_estimators.run(make_config(), tmp_path)
    assert len(counted) == 16 + 5
    rows = read_lines(tmp_path)
    assert [cell_of(row) for row in rows] == [cell_of(row) for row in before]
    assert rows[:11] == before[:11]
    assert results["finished"] == 16


def test_a_signal_stops_between_cells_and_nothing_is_lost(
    tmp_path, counted, monkeypatch
):
    real = measuring.measure

    def interrupted(*arguments, **options):
        if len(counted) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure", interrupted)
        with pytest.raises(loop.Stopped) as stopped:
            benchmark_estimators.run(make_config(), tmp_path)
    assert stopped.value.code == 143
    assert len(read_lines(tmp_path)) == 3
    partial = json.loads((tmp_path / "results.json").read_text())
    assert (partial["finished"], partial["planned"]) == (3, 16)
    assert "Unfinished: 3 of 16 cells." in estimator_table.render(partial)
    benchmark_estimators.run(make_config(), tmp_path)
    assert len(counted) == 16


def test_what_another_process_does_is_left_to_it(tmp_path, counted, monkeypatch):
    # Claims belong to processes, so it takes another one to hold one.
    hold = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, 5)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    plain = _settings.to_plain(make_config())
    with run_directory.open_directory(tmp_path, plain, resume=True):
        pass
    claims = str(tmp_path / cell_log._CLAIMS)
    with subprocess.Popen(
        [sys.executable, "-c", hold, claims],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.read(5) == b"held\n"
        waits = []

        def wait(seconds):
            assert len(counted) == 15, "it waited though there was something to do"
            waits.append(seconds)
            if len(waits) == 2:
                other.kill()
                other.wait()

        monkeypatch.setattr(benchmark_estimators.time, "sleep", wait)
        benchmark_estimators.run(make_config(), tmp_path)
    assert len(waits) == 2
    assert counted[-1] == (40, 1, False, LARGE)
    assert len({cell_of(row) for row in read_lines(tmp_path)}) == 16


def test_rows_of_others_are_taken_over(tmp_path):
    row = {"size": 1, "seed": 2, "estimator": "a", "task": "b"}
    with contextlib.ExitStack() as stack:
        mine, other = (cell_log.CellLog(tmp_path, stack) for _ in range(2))
        other.append(row)
        assert not mine.rows
        mine.append(row | {"seed": 3})
        assert [cell.seed for cell in mine.rows] == [2, 3]


def test_a_damaged_row_is_named(tmp_path):
    good = '{"size": 1, "seed": 2, "estimator": "a", "task": "b"}\n'
    (tmp_path / cell_log.FILE).write_text(good + "[]\n" + good)
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(ValueError, match=r"cells.jsonl is damaged: line 2 is not"),
    ):
        cell_log.CellLog(tmp_path, stack)


def entry(name=None, **options):
    """The first row with another estimator or more options."""
    row = ROWS["gaussian_plug_in"]
    options = options if name else {**row.options, **options}
    changed = dataclasses.replace(row, name=name or row.name, options=options)
    return {"estimators": {**ROWS, "gaussian_plug_in": changed}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": Speed(size=0)}, "speed.size is 0; allowed: whole"),
        ({"rows": ("gaussian_corected",)}, "did you mean 'gaussian_cor"),
        ({"rows": ()}, r"rows is \(\)"),
        ({"tasks": (SMALL, SMALL)}, "tasks is .* must differ"),
        ({"tasks": ("1v1-norml-0.75",)}, "unknown task"),
        ({"sizes": (1,)}, "sizes holds 1; allowed: integers from 2"),
        ({"sizes": (50, 40), "tasks": (LARGE,)}, "plug_in: 50 samples of 25 . 25"),
        ({"seeds": (-1,)}, "seeds holds -1"),
        (entry("gausian"), "plug_in: unknown estimator"),
        (entry(ridge=1), "plug_in: unknown option"),
        (
            entry("club", config={"hiden": 1}),
            "plug_in: unknown setting of FitConfig 'hiden'; did you mean 'hidden'",
        ),
        (entry("nwj", config={"depth": "a"}), "plug_in: depth is 'a'"),
    ],
)
def test_bad_input_is_found_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        benchmark_estimators.run(make_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def start(monkeypatch, *arguments):
    """Runs the script in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    return _command_line.run(benchmark_estimators.main, benchmark_estimators.PROG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "gaussian_corected"), "unknown row 'gaussian_corected'; did you"),
        (("--speed.size", 0), "speed.size is 0"),
        (("--training.max-stps", 5), "--training.max-steps"),
        (("--training.max-steps", 0), "max_steps"),
        (("--seeds", "one"), "--seeds"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch, tmp_path, capfd, arguments, message
):
    workdir = tmp_path / "run"
    assert start(monkeypatch, "--workdir", workdir, *arguments) == 2
    printed, errors = capfd.readouterr()
    assert printed == ""
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("benchmark_estimators.py: ")
    assert message in errors
    assert not workdir.exists()


def test_options_are_the_settings(monkeypatch, tmp_path, capfd, counted):
    times = {"first_seconds": 1.0, "median_seconds": 1.0}
    monkeypatch.setattr(measuring, "conditional_ksg", lambda s: {**vars(s), **times})
    arguments = ["--workdir", tmp_path, "--rows", "gaussian_corrected", "--seeds", 4]
    arguments += ["--tasks", SMALL, "--sizes", 60, 40, "--training.max-steps", 7]
    assert start(monkeypatch, *arguments, "--speed.dim", 3) == 0
    assert counted == [(size, 4, True, SMALL) for size in (40, 60)]
    printed, _ = capfd.readouterr()
    assert printed.endswith("results.json: 2 of 2 cells\n")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"]["max_steps"] == 7
    assert config["speed"]["dim"] == 3
    assert start(monkeypatch, *arguments, "--speed.dim", 3, "--no-resume") == 2
    assert "holds a run already" in capfd.readouterr().err


def test_the_default_is_the_published_benchmark():
    config = Benchmark()
    work = benchmark_estimators.prepare(config)
    assert len(work.cells) == 9 * 40 * 3
    assert work.cells[0] == (5000, 0, "gaussian_plug_in", tasks.BENCHMARK[0])
    named = {row.published for row in config.estimators.values()}
    assert named - {None} == set(estimator_table.PUBLISHED)
    assert config.options("infonce")["config"]["max_steps"] == 1000


# Measuring -------------------------------------------------------------------------


def measure(call, compiled=None, size=10):
    task = tasks.create(SMALL)
    draw = jax.jit(task.sample, static_argnums=1)
    compiled = set() if compiled is None else compiled
    return measuring.measure(call, task, draw, size=size, seed=0, compiled=compiled)


def test_the_time_is_that_of_a_call_that_compiles_nothing():
    calls, compiled = [], set()

    def call(**arguments):
        calls.append(arguments)
        if sum(len(past["x"]) == len(arguments["x"]) for past in calls) == 1:
            time.sleep(0.5)
        return Estimate(jnp.asarray(0.5), jnp.asarray(jnp.nan), "estimate")

    assert measure(call, compiled)["seconds"] < 0.4
    assert len(calls) == 2
    measure(call, compiled)
    assert len(calls) == 3
    assert measure(call, compiled, size=12)["seconds"] < 0.4
    assert len(calls) == 5
    keys = {tuple(jax.random.key_data(past["key"]).tolist()) for past in calls[:3]}
    assert len(keys) == 1
    np.testing.assert_array_equal(calls[0]["x"], calls[2]["x"])


def test_what_is_not_finite_is_told():
    def call(**_):
        warnings.warn("clustered", estimators.ClusteredFeaturesWarning, stacklevel=2)
        notes = {"ceiling": jnp.asarray(jnp.inf), "near_ceiling": jnp.asarray(True)}
        return Estimate(jnp.asarray(jnp.nan), jnp.asarray(jnp.nan), "lower", notes)

    row = measure(call)
    assert row["failure"] == "the estimate is nan"
    assert row["estimate"] is None
    assert row["standard_error"] is None
    assert row["diagnostics"] == {"ceiling": None, "near_ceiling": True}
    assert row["warnings"] == ["clustered"]
    assert row["kind"] == "lower"


def test_labels_are_handed_on():
    task = tasks.create(next(n for n in tasks.NAMES if n.startswith("label-channel")))
    given = {}

    def call(**arguments):
        given.update(arguments)
        raise ValueError("not\n this one")

    row = measuring.measure(call, task, task.sample, size=20, seed=0, compiled=set())
    assert row["failure"] == "not this one"
    assert given["num_classes"] == task.num_classes == 10
    assert given["labels"].shape == (20,)


# Summary, table and plot ------------------------------------------------------------


def make_rows(config, error):
    """Rows of all cells with given errors."""
    rows = {}
    for size in config.sizes:
        for seed in config.seeds:
            for label in config.rows:
                for name in config.tasks:
                    cell = cell_log.Cell(size, seed, label, name)
                    dim = int(name.split("-")[-2]) if "multi" in name else 1
                    rows[cell] = {
                        **cell._asdict(),
                        "truth": 1.0,
                        "truth_error": 0.0,
                        "dim_x": 2 if "25" in name or "50" in name else 1,
                        "dim_y": 30 if "25" in name or "50" in name else dim,
                        "estimate": 1.0 + error(cell),
                        "standard_error": 0.25,
                        "failure": None,
                        "seconds": 8.0,
                        "cpu_seconds": 4.0,
                        "diagnostics": {"near_ceiling": seed == 0, "ceiling": 6.0},
                        "warnings": [],
                        "hardware": "here",
                    }
    return rows


def summarize(config, rows):
    return {
        "command": "python x.py",
        "hardware": ["here"],
        "versions": {"jax": "9.9"},
        "float": "float32",
        "sizes": list(config.sizes),
        "seeds": list(config.seeds),
        **summary.summarize(config, list(rows), rows),
    }


@pytest.fixture
def whole():
    """All 40 tasks at 5,000 samples: off by 0.1, by 0.3 in 25 dimensions and more."""
    config = Benchmark(rows=("ksg_10", "ksg_5"), seeds=(0, 1))

    def error(cell):
        if cell.task == "1v1-additive-0.1" and cell.seed == 1:
            return -0.9
        return -0.3 if "25-25" in cell.task or "50-50" in cell.task else 0.1

    return config, make_rows(config, error)


def test_errors_are_of_single_runs_over_tasks_and_seeds(whole):
    found = summarize(*whole)["estimators"][0]
    errors = found["mean_absolute_error"]
    assert {k: v["tasks"] for k, v in errors.items()} == {
        "all": 40,
        "low": 33,
        "high": 7,
    }
    assert errors["high"]["mean"] == pytest.approx(0.3)
    assert errors["high"]["std"] == pytest.approx(0)
    assert errors["low"]["mean"] == pytest.approx(0.1 + 0.8 / 66)
    assert errors["low"]["std"] == pytest.approx(0.8 / 33 / math.sqrt(2))
    assert errors["all"]["mean"] == pytest.approx((33 * 0.1 + 7 * 0.3 + 0.4) / 40)
    worst = found["largest_error"]
    assert (worst["task"], worst["seed"]) == ("1v1-additive-0.1", 1)
    assert worst["value"] == pytest.approx(0.9)
    assert found["flags"] == {"near_ceiling": 40, "warned": 0}
    assert (found["median_seconds"], found["median_cpu_seconds"]) == (8.0, 4.0)
    of_task = found["tasks"]["1v1-additive-0.1"]
    assert of_task["mean"] == pytest.approx((1.1 + 0.1) / 2)
    assert of_task["std"] == pytest.approx(1.0 / math.sqrt(2))
    assert of_task["mean_absolute_error"] == pytest.approx(0.5)
    assert (of_task["standard_error"], of_task["seeds"]) == (0.25, 2)


def test_the_table_says_where_published_figures_are_better(whole):
    text = estimator_table.render(summarize(*whole))
    row = next(line for line in text.splitlines() if "k = 10" in line)
    assert "| 5,000 | 0.145 ± 0.014 (0.240) | 0.112 ± 0.017 (0.142) |" in row
    assert "| 0.300 ± 0.000 (0.702) | 0.90 (0.88) | 8 s | 4 s (2.5 s) |" in row
    assert f"In brackets: {estimator_table.SOURCE}" in text
    assert "Ours are worse: KSG, k = 10 (largest error, processor time)." in text
    assert "(" not in next(line for line in text.splitlines() if "k = 5" in line)


def test_what_is_not_the_published_setting_is_not_compared(whole):
    config, rows = whole
    one = next(iter(rows))
    for other in (
        {k: v for k, v in rows.items() if k != one},
        rows | {one: rows[one] | {"failure": "no"}},
    ):
        results = summary.summarize(config, list(rows), other)
        assert results["estimators"][0]["published"] is None
        assert results["estimators"][1]["published"] is None
    config = dataclasses.replace(config, sizes=(4000,))
    rows = {cell._replace(size=4000): row for cell, row in rows.items()}
    text = estimator_table.render(summarize(config, rows))
    assert "published" not in text
    assert "worse" not in text
    assert "(0.240)" not in text


def test_the_readme_shows_either_kind_of_results(whole, tmp_path):
    results = summarize(*whole)
    run_directory.write_json(tmp_path / "r.json", results)
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- table: r.json -->\n<!-- end -->\n")
    assert estimator_table.render(results) in readme_table.table(readme)
    with pytest.raises(ValueError, match="none of the runs that have a table"):
        readme_table.render({"claims": []})


def test_the_plot_shows_the_estimates(whole, tmp_path):
    config, rows = whole
    titles = {label: config.estimators[label].title for label in config.rows}
    images = []
    for shift in (0.0, 0.5):
        moved = [row | {"estimate": row["estimate"] + shift} for row in rows.values()]
        moved[0] |= {"estimate": None, "failure": "no"}
        plot.estimates(tmp_path / "p.png", moved, titles)
        images.append(np.asarray(Image.open(tmp_path / "p.png").convert("RGB")))
    assert images[0].shape == images[1].shape
    assert np.any(images[0] != images[1])
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_one_estimate_far_off_does_not_hide_the_others(whole, tmp_path, monkeypatch):
    rows = list(whole[1].values())
    rows[-1] = rows[-1] | {"estimate": -1000.0}
    limits, texts = [], []
    close = plot.pyplot.close

    def look(figure):
        for panel in figure.axes[:2]:
            limits.append(panel.get_ylim())
            texts.append(panel.texts[0].get_text())
        close(figure)

    monkeypatch.setattr(plot.pyplot, "close", look)
    plot.estimates(tmp_path / "p.png", rows, {"ksg_10": "10", "ksg_5": "5"})
    # The truth of all is 1 nat.
    assert limits[0] == limits[1] == pytest.approx((-1.105, 1.205))
    assert "beyond" not in texts[0]
    assert texts[1].endswith("1 beyond the plot")
    assert "log K = 6.00" in texts[1]


def test_a_plot_needs_no_values(whole, tmp_path):
    rows = [row | {"estimate": None, "failure": "no"} for row in whole[1].values()]
    plot.estimates(tmp_path / "p.png", rows, {"ksg_5": "KSG"})
    assert (tmp_path / "p.png").exists()
