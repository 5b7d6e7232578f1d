"""A matrix: its cells and their order, sharing the work, going on, what it shows."""

import copy
import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from configs import matrix as presets

from miue_jax.train import loop, parallel, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import plan, plot, run, settings, summary, table, workers


@pytest.fixture
def one_device(monkeypatch):
    mesh = parallel.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)


def _block(**changes):
    block = {"methods": None, "defenses": None, "victims": None, "seeds": (0,)}
    return {**block, **changes}


@pytest.fixture
def config(tmp_path, one_device):
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = presets.get_config().to_dict()
    for part in ("data", "test"):
        config[part] |= {"name_or_path": str(path), "per_class": None}
    kept = ("clean", "random_noise")
    config["methods"] = {name: config["methods"][name] for name in kept}
    config["defenses"] = {"none": "none", "cutout_4": "cutout-4"}
    protocol = config["victims"]["resnet10"]
    protocol |= {"model": "mlp2", "width": 8, "epochs": 2, "batch_size": 8}
    config["victims"] = {"small": protocol}
    config["blocks"] = {
        "first": _block(defenses=("none",)),
        "rest": _block(methods=("random_noise",), seeds=(0, 1)),
    }
    config["order"] = ("first", "rest")
    return config


def _names(cells):
    return [
        "-".join(map(str, (cell.method, cell.defense, cell.seed))) for cell in cells
    ]


FIRST = ["clean-none-0", "random_noise-none-0"]
REST = ["random_noise-cutout_4-0", "random_noise-none-1", "random_noise-cutout_4-1"]


def test_cells_come_block_by_block_and_once(config):
    assert _names(plan.cells(config)) == FIRST + REST
    config["order"] = ("rest", "first")
    assert _names(plan.cells(config))[-1] == FIRST[0]


def test_cells_of_a_run_have_their_protocol_seeds_and_spread(tmp_path, config):
    workdir = tmp_path / "run"
    results = run.run(config, workdir)
    assert (results["done"], results["planned"]) == (5, 5)
    found = {(c["method"], c["defense"]): c for c in results["cells"]}
    assert set(found) == {
        ("clean", "none"),
        ("random_noise", "none"),
        ("random_noise", "cutout_4"),
    }
    both = found["random_noise", "cutout_4"]
    assert both["seeds"] == [0, 1]
    values = both["final"]["values"]
    assert both["final"]["mean"] == pytest.approx(np.mean(values))
    assert both["final"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert found["clean", "none"]["final"]["std"] is None
    assert results["victims"]["small"]["epochs"] == 2
    made = results["protected"]["random_noise"]
    assert made["audit"]["max_change"] <= 8
    assert made["budget"] == "linf 8 gray levels"
    assert json.loads((workdir / evaluate.RESULTS).read_text()) == results
    own = [plan.Cell("random_noise", "cutout_4", "small", s) for s in (0, 1)]
    read = [run_directory.read_json(c.folder(workdir) / evaluate.RESULTS) for c in own]
    assert [r["final"]["mean"] for r in read] == values
    assert [r["seeds"] for r in read] == [[0], [1]]
    for name in ("table.md", "table.csv", "heat_map.png"):
        assert (workdir / name).stat().st_size > 0


def test_what_another_process_does_is_left_to_it(tmp_path, config, monkeypatch):
    finished = []
    real = evaluate.run

    def run(config, cell, **options):
        if cell.name == "clean-none-small-seed_0" and len(finished) < 4:
            raise run_directory.Busy(f"another process is working in {cell}")
        results = real(config, cell, **options)
        finished.append(cell.name)
        return results

    waits = []
    monkeypatch.setattr(evaluate, "run", run)
    monkeypatch.setattr(run.time, "sleep", waits.append)
    assert run.run(config, tmp_path / "run")["done"] == 5
    assert finished[-1] == "clean-none-small-seed_0"
    assert not waits, "it waited though there was something left to do"


def test_with_nothing_else_to_do_it_waits(tmp_path, config, monkeypatch):
    config["blocks"] = {"first": _block(methods=("clean",), defenses=("none",))}
    config["order"] = ("first",)
    waits = []
    monkeypatch.setattr(run.time, "sleep", waits.append)
    real = evaluate.run

    def run(config, cell, **options):
        if len(waits) < 2:
            raise run_directory.Busy(f"another process is working in {cell}")
        return real(config, cell, **options)

    monkeypatch.setattr(evaluate, "run", run)
    assert run.run(config, tmp_path / "run")["done"] == 1
    assert len(waits) == 2


def test_a_matrix_stopped_and_continued_equals_one_that_was_not(
    tmp_path, config, monkeypatch
):
    whole = run.run(config, tmp_path / "whole")
    real = evaluate.run
    started = []

    def stop_at_third(config, workdir, **options):
        started.append(workdir.name)
        if len(started) == 3:
            raise loop.Stopped(143)
        return real(config, workdir, **options)

    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "run", stop_at_third)
        with pytest.raises(loop.Stopped):
            run.run(config, workdir)
    assert run_directory.read_json(workdir / evaluate.RESULTS)["done"] == 2
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    monkeypatch.setattr(protect, "_generate", lambda *a, **k: pytest.fail("again"))
    continued = run.run(config, workdir)
    assert len(trained) == 3, "three cells were left"
    assert continued["cells"] == whole["cells"]
    protected = [r["protected"]["random_noise"] for r in (continued, whole)]
    assert protected[0]["audit"] == protected[1]["audit"]


def test_a_larger_matrix_goes_on_in_the_same_directory(tmp_path, config, monkeypatch):
    workdir = tmp_path / "run"
    smaller = {**config, "order": ("first",)}
    assert run.run(smaller, workdir)["done"] == 2
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    assert run.run(config, workdir)["done"] == 5
    assert len(trained) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["victims"]["small"].update(learning_rate=0.2), "learning_rate"),
        (lambda c: c["methods"]["random_noise"].update(radius=4.0), "method.radius"),
        (
            lambda c: c["defenses"].update(cutout_4="cutout-3"),
            "defense.size is 4 there and 3",
        ),
        (lambda c: c.update(generator_seed=1), "generator_seed is 0 there and 1"),
    ],
)
def test_a_cell_of_other_settings_is_not_taken_for_done(
    tmp_path, config, change, message
):
    workdir = tmp_path / "run"
    config["blocks"] = {"all": _block(methods=("random_noise",))}
    config["order"] = ("all",)
    run.run(config, workdir)
    changed = copy.deepcopy(config)
    change(changed)
    with pytest.raises(ValueError, match=message):
        run.run(changed, workdir)


def test_numbers_of_other_shards_are_not_mixed_in(tmp_path, config):
    run.run(config, tmp_path / "run")
    # One device, dealt to as two.
    config["num_shards"] = 2
    with pytest.raises(ValueError, match="num_shards"):
        run.run(config, tmp_path / "run")
    results = run.run(config, tmp_path / "other")
    assert results["num_shards"] == 2
    cell = plan.Cell("clean", "none", "small", 0).folder(tmp_path / "other")
    assert run_directory.read_json(cell / evaluate.RESULTS)["num_shards"] == 2


def test_data_that_have_changed_are_refused(tmp_path, config):
    run.run(config, tmp_path / "run")
    path = pathlib.Path(config["test"]["name_or_path"])
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"x_test": 255 - arrays["x_test"]}))
    with pytest.raises(ValueError, match="fingerprints"):
        run.run(config, tmp_path / "run")


def test_a_directory_that_was_moved_goes_on(tmp_path, config, monkeypatch):
    whole = run.run(config, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setattr(evaluate, "run", None)
    monkeypatch.setattr(protect, "run", None)
    assert run.run(config, tmp_path / "there")["cells"] == whole["cells"]


def test_a_cell_stopped_in_its_midst_goes_on_where_the_directory_was_moved(
    tmp_path, config, monkeypatch
):
    config["order"] = ("rest",)
    whole = run.run(config, tmp_path / "whole")
    train = loop.run_until

    def stop(mark, *arguments, step, received, **options):
        if step and mark == 10:  # the second epoch of five steps
            received.append(signal.SIGTERM)
        return train(mark, *arguments, step=step, received=received, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_until", stop)
        with pytest.raises(loop.Stopped):
            run.run(config, tmp_path / "here")
    assert not list((tmp_path / "here" / "cells").glob("*/results.json"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert run.run(config, tmp_path / "there")["cells"] == whole["cells"]


def test_the_data_are_named_by_their_source_or_as_is_said(tmp_path, config):
    config["order"] = ("first",)
    source = config["data"]["name_or_path"]
    assert run.run(config, tmp_path / "run")["data"] == source
    config["data_name"] = "noise"
    assert run.run(config, tmp_path / "run")["data"] == "noise"


def test_one_that_diverges_is_marked_and_does_not_stop_the_others(
    tmp_path, config, monkeypatch
):
    real = evaluate.run
    tried = []

    def run(config, workdir, **options):
        if workdir.name.startswith("clean"):
            tried.append(workdir.name)
            raise run_directory.Diverged("loss is nan at step 3")
        return real(config, workdir, **options)

    monkeypatch.setattr(evaluate, "run", run)
    workdir = tmp_path / "run"
    results = run.run(config, workdir)
    assert results["failed"] == {"clean-none-small-0": "loss is nan at step 3"}
    assert (results["done"], results["planned"]) == (4, 5)
    assert "clean" not in {cell["method"] for cell in results["cells"]}
    assert "| clean |  |  |" in table.render(results)
    assert "clean-none-small-0: loss is nan" in table.render(results)
    run.run(config, workdir)
    assert len(tried) == 1, "it was tried again"
    note = next(workdir.glob("cells/*/.failed.json"))
    kept = note.read_text()
    # A note of a version that did not write the settings down.
    note.write_text('{"why": "loss was nan"}')
    assert run.run(config, workdir)["done"] == 4
    assert len(tried) == 2, "it was not tried with the settings of today"
    assert note.read_text() == kept
    config["victims"]["small"]["learning_rate"] = 1e-3
    config["order"] = ("first",)
    with pytest.raises(ValueError, match=r"learning_rate is 0\.\d+ there and 0\.001"):
        run.run(config, workdir)


def test_a_generator_that_fails_leaves_the_others_to_go_on(
    tmp_path, config, monkeypatch
):
    tried = []

    def run(config, workdir, **options):
        tried.append(workdir.name)
        raise run_directory.Failed("the perturbation rounds to 0")

    monkeypatch.setattr(protect, "run", run)
    results = run.run(config, tmp_path / "run")
    assert [cell["method"] for cell in results["cells"]] == ["clean"]
    assert len(results["failed"]) == 4
    run.run(config, tmp_path / "run")
    assert tried == ["random_noise"], "it was tried for each of its cells, or again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["methods"]["random_noise"].update(radius=0.5), "radius"),
        (lambda c: c["methods"].update({"clean-none": None}), "name 'clean-none'"),
        (lambda c: c["defenses"].update(cutout_4="cutuot-4"), "mean 'cutout'"),
        (lambda c: c["defenses"].update(cutout_4="jpeg-10"), "16x16"),
        (lambda c: c["victims"]["small"].update(epochs=0), "epochs"),
        (lambda c: c["victims"]["small"].update(epoch=3), "epoch"),
        (lambda c: c["victims"]["small"].update(batch_size=41), "of 41"),
        (lambda c: c["victims"]["small"].update(model="lenet5"), "16"),
        (lambda c: c["blocks"]["first"].update(seeds=()), "first.seeds is empty"),
        (lambda c: c["blocks"]["first"].update(seeds=(0, 0)), "they must differ"),
        (lambda c: c["blocks"]["rest"].update(methods=()), "rest.methods is empty"),
        (
            lambda c: c["blocks"]["rest"].update(methods=("randm_noise",)),
            "random_noise",
        ),
        (lambda c: c.update(order=()), "order is empty"),
        (lambda c: c.update(order=("frist",)), "did you mean 'first'"),
        (lambda c: c.update(generator_seed=2**64), "seed holds 18446744073709551616"),
        (lambda c: c["test"].update(name_or_path="cifar1O"), "unknown data set"),
    ],
)
def test_bad_input_is_found_before_anything_runs(tmp_path, config, change, message):
    change(config)
    with pytest.raises(ValueError, match=message):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_it_made_itself_is_no_run_that_was_stopped(tmp_path, config):
    workdir = tmp_path / "run"
    assert run.run(config, workdir, resume=False)["done"] == 5
    with pytest.raises(ValueError, match="holds a run already"):
        run.run(config, workdir, resume=False)


def test_damaged_results_of_a_cell_are_named(tmp_path, config):
    config["order"] = ("first",)
    workdir = tmp_path / "run"
    run.run(config, workdir)
    cell = plan.Cell("random_noise", "none", "small", 0)
    (cell.folder(workdir) / evaluate.RESULTS).write_text("{}")
    with pytest.raises(
        ValueError, match=r"random_noise-none.*results\.json is damaged"
    ):
        run.run(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["cifar10_cpu", "cifar10_gpu"])
def test_the_presets_name_what_exists_and_fits(preset, one_device):
    config = presets.get_config(preset).to_dict()
    config["data"] = config["test"] = {
        "name_or_path": "shapes",
        "split": "train",
        "per_class": 128,  # batches of 512 must be filled, and blocks with validation
    }
    config["methods"]["ntga"] |= {"block_size": 128, "validation_size": 512}
    settings.check(config, plan.cells(config))


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="did you mean 'cifar10_cpu'"):
        presets.get_config("cifar10_cpus")


# What it shows.


def _done(mean, **extra):
    return {
        "final": {"mean": mean},
        "best": {"mean": mean + 0.1},
        "epochs_tested": [1, 2],
        "test_accuracy": [[0.1, mean]],
        "device": "cpu",
        "num_shards": 4,
        "jax": "0.10.2",
        **extra,
    }


@pytest.fixture
def results():
    victim = {"model": "mlp2", "width": 8, "epochs": 2, "batch_size": 8}
    victim |= {"learning_rate": 0.1, "weight_decay": 5e-4}
    at = {"name": "adversarial_training", "radius": 8, "protocol": "pil"}
    config = {
        "data_name": "noise",
        "defenses": {"none": "none", "at": at, "gray": "grayscale"},
        "victims": {"small": victim},
    }
    made = dict.fromkeys(summary.KEPT)
    made |= {"norm": "l2", "radius": 1.3, "export": "round"}
    done = {
        plan.Cell("clean", "none", "small", 0): _done(0.5),
        plan.Cell("clean", "none", "small", 2): _done(0.7),
        plan.Cell("lsp", "none", "small", 0): _done(0.123),
        plan.Cell("lsp", "at", "small", 0): _done(0.4, robust={"mean": 0.3}),
    }
    planned = [*done, plan.Cell("clean", "at", "small", 0)]
    planned.append(plan.Cell("em", "gray", "small", 0))
    return summary.summarize(config, {"lsp": made}, done, {}, planned)


def test_a_table_has_spreads_budgets_and_gaps(results):
    text = table.render(results)
    assert "| trained on | none | at | gray |" in text
    assert "| clean | 60.0 ± 14.1 (2) |  |  |" in text
    assert "| lsp (l2 1.3) | 12.3 | 40.0 |  |" in text
    assert "| em |  |  |  |" in text, "what was not done is not to be seen"
    assert "Robust accuracy" in text
    assert "lsp, at, small: 30.0" in text
    for told in ("4 of 6 victims", "mlp2 of width 8, 2 epochs", "noise", "jax 0.10.2"):
        assert told in text
    for told in ("seeds 0, 2", "batch 8", "decay 0.0005", "radius 8", "cpu, 4 shards"):
        assert told in text


def test_a_row_whose_export_does_not_round_says_so(results):
    results["protected"]["lsp"]["export"] = "truncate"
    assert "| lsp (l2 1.3, truncate) | 12.3 |" in table.render(results)


def test_a_row_may_have_an_export_of_its_own():
    row = presets.method("error_minimizing", export="drop_negative", epochs=2)
    config = {
        "data": {},
        "methods": {"em": row.to_dict()},
        "generator_seed": 0,
        "num_shards": None,
    }
    made = settings.protection(config, "em")
    assert made["export"] == "drop_negative"
    assert made["method"]["epochs"] == 2
    assert "export" not in made["method"]


def test_comma_separated_values_hold_every_cell(results):
    results["protected"]["lsp"]["export"] = "truncate"
    rows = list(csv.DictReader(io.StringIO(table.to_csv(results))))
    assert [row["export"] for row in rows] == ["round", "truncate", "truncate"]
    assert [row["method"] for row in rows] == ["clean", "lsp", "lsp"]
    assert rows[0]["seeds"] == "0 2"
    assert float(rows[0]["final_mean"]) == pytest.approx(0.6)
    assert rows[1]["final_std"] == rows[1]["robust_mean"] == ""
    assert rows[1]["budget"] == "l2 1.3"
    assert float(rows[2]["robust_mean"]) == 0.3
    settings = json.loads(rows[2]["settings"])
    assert (settings["radius"], settings["protocol"]) == (8, "pil")
    assert settings["eval_steps"] == 20, "what was left to defaults is not told"
    assert json.loads(rows[2]["protocol"])["epochs"] == 2


def test_a_heat_map_is_drawn_where_little_is_done(tmp_path, results):
    plot.heat_map(tmp_path / "map.png", results)
    nothing = {**results, "cells": [], "done": 0}
    plot.heat_map(tmp_path / "empty.png", nothing)
    sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("map", "empty")]
    assert sizes[0] > sizes[1] > 1000


def test_a_heat_map_shows_every_number_in_its_place(tmp_path, results, monkeypatch):
    # Not as many columns as rows.
    results["columns"]["small"] = ["none", "at"]
    drawn = []
    monkeypatch.setattr(plot.pyplot, "close", drawn.append)
    plot.heat_map(tmp_path / "map.png", results)
    (figure,) = drawn
    panel = figure.axes[0]
    rows = [label.get_text() for label in panel.get_yticklabels()]
    columns = [label.get_text() for label in panel.get_xticklabels()]
    assert rows == ["clean", "lsp (l2 1.3)", "em"]
    assert columns == ["none", "at"]
    shown = panel.images[0].get_array().filled(np.nan)
    want = np.array([[60.0, np.nan], [12.3, 40.0], [np.nan, np.nan]])
    np.testing.assert_allclose(shown, want)
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): "60\n±14.1 (2)", (0, 1): "12", (1, 1): "40"}


def test_a_victim_has_the_columns_that_were_planned_for_it(results):
    results["victims"]["large"] = results["victims"]["small"]
    results["columns"] = {"small": ["none", "gray"], "large": ["at"]}
    text = table.render(results)
    assert "| trained on | none | gray |" in text
    assert "| trained on | at |" in text


# Several processes.


def _script(text):
    return [sys.executable, "-c", text]


def test_workers_have_a_device_and_cores_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    script = (
        "import os; print(os.environ['CUDA_VISIBLE_DEVICES'],"
        " *sorted(os.sched_getaffinity(0)))"
    )
    sleeping = f"import time; time.sleep(0.5); {script}"
    workers.run(2, _script(sleeping), tmp_path, lambda: None)
    told = [(tmp_path / f"worker_{i}.log").read_text().split() for i in range(2)]
    assert [words[0] for words in told] == ["3", "5"]
    cores = [set(words[1:]) for words in told]
    assert not cores[0] & cores[1]


def test_no_more_workers_than_devices_that_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES lists 1: 3"):
        workers.run(2, _script(""), tmp_path, lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    workers.run(1, _script(script), tmp_path, lambda: None)
    assert (tmp_path / "worker_0.log").read_text() == "''\n", "hidden GPUs were shown"


def test_no_more_workers_than_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(workers, "_DEVICE_FILES", tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ValueError, match="devices is 2, and there are 1 GPUs"):
        workers.run(2, _script(""), tmp_path, lambda: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    workers.run(2, _script(""), tmp_path, lambda: None)
    workers.run(1, _script(""), tmp_path, lambda: None)


def test_a_worker_that_fails_is_reported(tmp_path, capsys):
    script = "import sys; print('it is broken', file=sys.stderr); sys.exit(2)"
    with pytest.raises(SystemExit) as ended:
        workers.run(1, _script(script), tmp_path, lambda: None)
    assert ended.value.code == 2
    assert "worker_0.log: it is broken" in capsys.readouterr().err


def test_signals_are_passed_on_to_the_workers(tmp_path):
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143));"
    script += "print('ready', flush=True); time.sleep(60)"
    log = tmp_path / "worker_0.log"

    def stop_once_ready():
        if log.read_text() == "ready\n":
            signal.raise_signal(signal.SIGTERM)

    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        workers.run(1, _script(script), tmp_path, stop_once_ready)
    assert ended.value.code == 143
    assert time.monotonic() - began < 50, "the worker was not told to stop"


@pytest.mark.parametrize("count", [0, 100_000])
def test_more_workers_than_cores_are_refused(tmp_path, count):
    with pytest.raises(ValueError, match=f"devices is {count}; allowed: from 1 to"):
        workers.run(count, _script(""), tmp_path, lambda: None)


@pytest.mark.slow
def test_two_processes_killed_and_continued_finish_the_matrix(tmp_path, config):
    root = pathlib.Path(__file__).parents[2]
    file = tmp_path / "small_matrix.py"
    text = "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
    text += f"    return ConfigDict({config!r}, convert_dict=True)\n"
    file.write_text(text)
    command = [sys.executable, str(root / "experiments/matrix.py"), "--config"]
    command += [str(file), "--workdir", str(tmp_path / "run"), "--devices=2"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("cells/*/results.json")):
        assert time.monotonic() < deadline, "no cell was done"
        time.sleep(0.2)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    killed = [int(child) for child in children.read_text().split()]
    assert len(killed) == 2
    # They are in the midst of the other cells.
    for pid in (process.pid, *killed):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert len(list((tmp_path / "run").glob("cells/*/results.json"))) < 5
    subprocess.run(command, check=True, timeout=240)
    results = run_directory.read_json(tmp_path / "run" / evaluate.RESULTS)
    assert results["done"] == 5
    assert results["cells"] == run.run(config, tmp_path / "whole")["cells"]
