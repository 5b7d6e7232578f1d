"""Sweeps: their cells and their order, sharing the work, resuming, the tables."""

import csv
import dataclasses
import enum
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from miue_jax import _command_line, defenses, generators, victims
from miue_jax.data import DataSource, artifact
from miue_jax.train import loop, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import launch, plan, plot, report, summary, table
from miue_jax.workflows.sweep import run as runs
from miue_jax.workflows.sweep.launchers import local
from miue_jax.workflows.sweep.plan import Block, Sweep, row

ROOT = pathlib.Path(__file__).parents[2]

SMALL = victims.preset("quick", model="mlp2", width=8, epochs=2, batch_size=8)
FIRST_BLOCK = Block(defenses=("none",))
REST_BLOCK = Block(generators=("random_noise",), seeds=(0, 1))


@pytest.fixture
def fields(tmp_path, one_device):
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return {
        "data": str(path),
        "generators": {"clean": None, "random_noise": "random_noise"},
        "defenses": {"none": "none", "cutout_4": "cutout-4"},
        "victims": {"small": SMALL},
        "blocks": (FIRST_BLOCK, REST_BLOCK),
    }


@pytest.fixture
def config(fields):
    return Sweep(**fields)


def _run(config, workdir, **options):
    return runs.run(config, workdir, progress=False, **options)


def _names(cells):
    return [
        "-".join(map(str, (cell.generator, cell.defense, cell.seed))) for cell in cells
    ]


FIRST = ["clean-none-0", "random_noise-none-0"]
REST = ["random_noise-cutout_4-0", "random_noise-none-1", "random_noise-cutout_4-1"]


def test_cells_come_block_by_block_and_once(config):
    assert _names(plan.cells(config)) == FIRST + REST
    config = dataclasses.replace(config, blocks=(REST_BLOCK, FIRST_BLOCK))
    assert _names(plan.cells(config))[-1] == FIRST[0]
    config = dataclasses.replace(config, blocks=(), seeds=range(2))
    assert len(plan.cells(config)) == 8


def test_cells_of_a_run_have_their_protocol_seeds_and_spread(tmp_path, config):
    workdir = tmp_path / "run"
    results = _run(config, workdir)
    assert (results["done"], results["planned"]) == (5, 5)
    found = {(c["generator"], c["defense"]): c for c in results["cells"]}
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
    assert run_directory.read_json(workdir / evaluate.RESULTS) == results
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
    monkeypatch.setattr(runs.time, "sleep", waits.append)
    assert _run(config, tmp_path / "run")["done"] == 5
    assert finished[-1] == "clean-none-small-seed_0"
    assert not waits, "it waited though there was something left to do"


def test_with_nothing_else_to_do_it_waits(tmp_path, config, monkeypatch):
    block = Block(generators=("clean",), defenses=("none",))
    config = dataclasses.replace(config, blocks=(block,))
    waits = []
    monkeypatch.setattr(runs.time, "sleep", waits.append)
    real = evaluate.run

    def run(config, cell, **options):
        if len(waits) < 2:
            raise run_directory.Busy(f"another process is working in {cell}")
        return real(config, cell, **options)

    monkeypatch.setattr(evaluate, "run", run)
    assert _run(config, tmp_path / "run")["done"] == 1
    assert len(waits) == 2


def test_a_sweep_stopped_and_resumed_equals_one_that_was_not(
    tmp_path, config, monkeypatch
):
    whole = _run(config, tmp_path / "whole")
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
            _run(config, workdir)
    assert run_directory.read_json(workdir / evaluate.RESULTS)["done"] == 2
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    monkeypatch.setattr(protect, "_generate", lambda *a, **k: pytest.fail("again"))
    continued = _run(config, workdir)
    assert len(trained) == 3, "three cells were left"
    assert continued["cells"] == whole["cells"]
    protected = [r["protected"]["random_noise"] for r in (continued, whole)]
    assert protected[0]["audit"] == protected[1]["audit"]


def test_a_larger_sweep_resumes_in_the_same_directory(tmp_path, config, monkeypatch):
    workdir = tmp_path / "run"
    smaller = dataclasses.replace(config, blocks=(FIRST_BLOCK,))
    assert _run(smaller, workdir)["done"] == 2
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    assert _run(config, workdir)["done"] == 5
    assert len(trained) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"victims": {"small": dataclasses.replace(SMALL, learning_rate=0.2)}},
            "learning_rate",
        ),
        (
            {"generators": {"random_noise": row("random_noise", radius=4.0)}},
            "generator.radius",
        ),
        (
            {"generators": {"random_noise": row("random_noise", export="truncate")}},
            "export",
        ),
        (
            {"defenses": {"none": "none", "cutout_4": "cutout-3"}},
            "defenses.cutout_4.size is 4 there and 3",
        ),
        ({"generator_seed": 1}, "generator_seed is 0 there and 1"),
    ],
)
def test_a_cell_of_other_settings_is_not_taken_for_done(
    tmp_path, config, change, message
):
    workdir = tmp_path / "run"
    block = Block(generators=("random_noise",))
    config = dataclasses.replace(config, blocks=(block,))
    _run(config, workdir)
    changed = dataclasses.replace(config, **change)
    with pytest.raises(ValueError, match=message):
        _run(changed, workdir)


def test_numbers_of_other_shards_are_not_mixed_in(tmp_path, config):
    _run(config, tmp_path / "run")
    # One device, dealt to as two.
    config = dataclasses.replace(config, num_shards=2)
    with pytest.raises(ValueError, match="num_shards"):
        _run(config, tmp_path / "run")
    results = _run(config, tmp_path / "other")
    assert results["num_shards"] == 2
    cell = plan.Cell("clean", "none", "small", 0).folder(tmp_path / "other")
    assert run_directory.read_json(cell / evaluate.RESULTS)["num_shards"] == 2


def test_data_that_have_changed_are_refused(tmp_path, config):
    _run(config, tmp_path / "run")
    path = pathlib.Path(config.test.name)
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"x_test": 255 - arrays["x_test"]}))
    with pytest.raises(ValueError, match="fingerprints"):
        _run(config, tmp_path / "run")


def test_a_directory_that_was_moved_is_resumed(tmp_path, config, monkeypatch):
    whole = _run(config, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setattr(evaluate, "run", None)
    monkeypatch.setattr(protect, "run", None)
    assert _run(config, tmp_path / "there")["cells"] == whole["cells"]


def test_a_cell_stopped_in_its_midst_is_resumed_where_the_directory_was_moved(
    tmp_path, config, monkeypatch
):
    config = dataclasses.replace(config, blocks=(REST_BLOCK,))
    whole = _run(config, tmp_path / "whole")
    train = loop.run_until

    def stop(mark, *arguments, step, received, **options):
        if step and mark == 10:  # the second epoch of five steps
            received.append(signal.SIGTERM)
        return train(mark, *arguments, step=step, received=received, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_until", stop)
        with pytest.raises(loop.Stopped):
            _run(config, tmp_path / "here")
    assert not list((tmp_path / "here" / "cells").glob("*/results.json"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert _run(config, tmp_path / "there")["cells"] == whole["cells"]


def test_the_data_are_named_by_their_source_or_as_is_said(tmp_path, config):
    config = dataclasses.replace(config, blocks=(FIRST_BLOCK,))
    # What is published names no folders.
    assert _run(config, tmp_path / "run")["data"] == pathlib.Path(config.data.name).name
    config = dataclasses.replace(config, data_name="noise")
    assert _run(config, tmp_path / "run")["data"] == "noise"


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
    results = _run(config, workdir)
    assert results["failed"] == {"clean-none-small-0": "loss is nan at step 3"}
    assert (results["done"], results["planned"]) == (4, 5)
    assert "clean" not in {cell["generator"] for cell in results["cells"]}
    assert "| clean |  |  |" in table.render(results)
    assert "clean-none-small-0: loss is nan" in table.render(results)
    _run(config, workdir)
    assert len(tried) == 1, "it was tried again"
    note = next(workdir.glob("cells/*/.failed.json"))
    kept = note.read_text()
    note.write_text('{"why": "loss was nan"}')
    with pytest.raises(
        ValueError, match=r"failed\.json is damaged: it has no training"
    ):
        _run(config, workdir)
    note.unlink()
    assert _run(config, workdir)["done"] == 4
    assert len(tried) == 2, "it was not tried without its note"
    assert note.read_text() == kept
    config = dataclasses.replace(
        config,
        victims={"small": dataclasses.replace(SMALL, learning_rate=1e-3)},
        blocks=(FIRST_BLOCK,),
    )
    with pytest.raises(ValueError, match=r"learning_rate is 0\.\d+ there and 0\.001"):
        _run(config, workdir)


def test_a_generator_that_fails_does_not_stop_the_others(tmp_path, config, monkeypatch):
    tried = []

    def run(config, workdir, **options):
        tried.append(workdir.name)
        raise run_directory.Failed("the perturbation rounds to 0")

    monkeypatch.setattr(protect, "run", run)
    results = _run(config, tmp_path / "run")
    assert [cell["generator"] for cell in results["cells"]] == ["clean"]
    assert len(results["failed"]) == 4
    _run(config, tmp_path / "run")
    assert tried == ["random_noise"], "it was tried for each of its cells, or again"


BAD = {
    "radius": (
        {"generators": {"a": {"name": "random_noise", "radius": 0.5}}},
        "radius",
    ),
    "generator": ({"generators": ["radnom_noise"]}, "did you mean 'random_noise'"),
    "nothing": ({"generators": []}, "generators is empty; name at least one"),
    "twice": ({"generators": ["clean", "clean"]}, "'clean' is given twice"),
    "name": ({"generators": {"clean-none": None}}, "name 'clean-none' in generators"),
    "defense": ({"defenses": {"cutout_4": "cutuot-4"}}, "mean 'cutout'"),
    "JPEG": ({"defenses": {"jpeg": "jpeg-10"}}, "16x16"),
    "quality": ({"defenses": ["jpeg"]}, "needs its quality, as in 'jpeg-<quality>'"),
    "protocol": ({"victims": ["quik"]}, "did you mean 'quick'"),
    "epochs": ({"victims": {"small": {"epochs": 0}}}, "epochs"),
    "field": ({"victims": {"small": {"epoch": 3}}}, "did you mean 'epochs'"),
    "split": (
        {"victims": {"small": {"batch_size": 5}}, "num_shards": 2},
        "5 images does not split .*set batch_size",
    ),
    "network": ({"victims": {"small": {"model": "lenet5"}}}, "16"),
    "no seeds": ({"blocks": [Block(seeds=())]}, r"blocks\[0\].seeds is empty"),
    "seeds": ({"seeds": (0, 0), "blocks": ()}, "they must differ"),
    "seeds of a block": ({"blocks": [Block(seeds=(0, 0))]}, "they must differ"),
    "rows": (
        {"blocks": [FIRST_BLOCK, Block(generators=())]},
        r"blocks\[1\].generators is empty",
    ),
    "row": ({"blocks": [{"generators": ["randm_noise"]}]}, "random_noise"),
    "block": ({"blocks": [5]}, "blocks hold 5; allowed: Block"),
    "field of a block": ({"blocks": [{"seds": [1]}]}, "did you mean 'seeds'"),
    "generator seed": ({"generator_seed": 2**64}, "seed holds 18446744073709551616"),
    "shards": ({"num_shards": 0}, "num_shards is 0"),
    "every": ({"evaluate_every": 0}, "evaluate_every is 0"),
    "data": ({"test": "cifar1O"}, "unknown data set"),
    "option of data": ({"test": {"name": "shapes", "splt": "test"}}, "mean 'split'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_found_before_anything_runs(tmp_path, fields, case):
    change, message = BAD[case]
    if "blocks" not in change and change.keys() & set(plan.AXES):
        fields["blocks"] = ()
    with pytest.raises(ValueError, match=message):
        _run(Sweep(**fields | change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_reduced(tmp_path, config, caplog):
    large = dataclasses.replace(SMALL, batch_size=128)
    config = dataclasses.replace(
        config, victims={"small": large}, blocks=(FIRST_BLOCK,)
    )
    with caplog.at_level("WARNING", logger="miue_jax"):
        results = _run(config, tmp_path / "run")
    clipped = "victim.batch_size is more than the 40 images: using 40"
    assert caplog.messages.count(clipped) == 2
    assert results["victims"]["small"]["batch_size"] == 40
    assert "batch 40" in table.render(results)


# Settings as plain values.


class Mode(enum.Enum):
    """A setting of a user-defined generator."""

    PLAIN = 0
    STRONG = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    """Settings of a user-defined generator."""

    low: int = 1


def typed(key, images, labels, *, mode: Mode = Mode.PLAIN, inner: Inner = Inner()):
    """A user-defined generator whose settings JSON does not know."""
    return 0 * images


_TYPED = f"{__name__}:typed"

FORMS = {
    "defaults": {},
    "names": {
        "data": pathlib.Path("somewhere.npz"),
        "generators": ["clean", "random_noise/uniform", "mi_ue/interleaved", _TYPED],
        "defenses": ["none", "jpeg-10", "adversarial_training-4", "cutout"],
        "victims": ["quick", "em"],
        "seeds": range(3),
    },
    "one name": {"generators": "clean", "defenses": "none", "victims": "quick"},
    "objects": {
        "data": DataSource("somewhere.npz", per_class=3, seed=2),
        "test": DataSource("elsewhere.npz", split="train"),
        "generators": {
            "clean": None,
            "row": row("one_pixel", pixels=2, export="drop_negative"),
            "half": row("one_pixel", fraction=0.5),
            "second": row("one_pixel", seed=1),
            "spec": generators.spec("mi_ue/paper", radius=4.0),
            "typed": generators.spec(_TYPED, mode=Mode.STRONG, inner=Inner(3)),
        },
        "defenses": {"cut": defenses.parse("cutout-4")},
        "victims": {
            "small": dataclasses.replace(SMALL, schedule="steps", milestones=(0.5,))
        },
        "seeds": [0, 7],
        "blocks": [Block(generators=("row",), seeds=(7,)), Block(victims=("small",))],
        "num_shards": 2,
        "data_name": "noise",
    },
    "mappings": {
        "data": {"name": "somewhere.npz", "per_class": 2},
        "test": {"name": "somewhere.npz"},
        "generators": {
            "a": {"name": "random_noise", "radius": 4.0},
            "b": {"name": "random_noise", "export": "truncate"},
            "c": {
                "generator": "random_noise/uniform",
                "export": "truncate",
                "fraction": 0.5,
                "seed": 1,
                "radius": 2.0,
            },
            "typed": {"name": _TYPED, "mode": "STRONG", "inner": {"low": 4}},
        },
        "defenses": {"jpeg": {"name": "jpeg", "quality": 20}},
        "victims": {"small": {"model": "linear", "epochs": 2}},
        "blocks": [{"generators": ["a", "b"], "seeds": [1]}],
        "generator_seed": 3,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_plain_settings_make_the_same_sweep(form):
    sweep = Sweep(**FORMS[form])
    plain = sweep.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    again = Sweep(**json.loads(json.dumps(plain)))
    assert again == sweep
    assert again.to_plain() == plain
    assert plan.cells(again) == plan.cells(sweep)


def test_the_test_images_are_found_where_the_others_are():
    data = DataSource("cifar10", per_class=3, seed=1, data_dir="somewhere")
    assert Sweep(data=data).test == DataSource(
        "cifar10", split="test", data_dir="somewhere"
    )


def test_settings_of_any_form_are_what_they_say():
    sweep = Sweep(**FORMS["names"])
    assert list(sweep.generators) == [
        "clean",
        "random_noise_uniform",
        "mi_ue_interleaved",
        re.sub(r"\W", "_", _TYPED),
    ]
    assert list(sweep.defenses) == [
        "none",
        "jpeg_10",
        "adversarial_training_4",
        "cutout",
    ]
    assert sweep.test == DataSource("somewhere.npz", split="test")
    assert sweep.seeds == (0, 1, 2)
    sweep = Sweep(**FORMS["mappings"])
    assert sweep.test.split == "test"
    assert sweep.generators["c"] == row(
        "random_noise/uniform", radius=2.0, export="truncate", fraction=0.5, seed=1
    )
    assert sweep.generators["typed"].generator.config.mode is Mode.STRONG
    assert sweep.generators["typed"].generator.config.inner == Inner(4)
    assert sweep.defenses == {"jpeg": {"name": "jpeg", "quality": 20}}


def test_what_it_made_itself_is_no_run_that_was_stopped(tmp_path, config):
    workdir = tmp_path / "run"
    assert _run(config, workdir, resume=False)["done"] == 5
    with pytest.raises(ValueError, match="holds a run already"):
        _run(config, workdir, resume=False)


def test_damaged_results_of_a_cell_are_named(tmp_path, config):
    config = dataclasses.replace(config, blocks=(FIRST_BLOCK,))
    workdir = tmp_path / "run"
    _run(config, workdir)
    cell = plan.Cell("random_noise", "none", "small", 0)
    (cell.folder(workdir) / evaluate.RESULTS).write_text("{}")
    with pytest.raises(
        ValueError, match=r"random_noise-none.*results\.json is damaged"
    ):
        _run(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_matrices_name_what_exists_and_fits(name, one_device):
    file = ROOT / "experiments" / f"matrix_cifar10_{name}.py"
    config = _command_line.load_config(str(file))
    # Batches of 512 must be filled, and blocks with validation.
    data = DataSource("shapes", per_class=128)
    ntga = row("neural_tangent", block_size=128, validation_size=512)
    config = dataclasses.replace(
        config, data=data, test=data, generators={**config.generators, "ntga": ntga}
    )
    plan.check(config, plan.cells(config))


# What it shows.


def _done(mean, **extra):
    return {
        "final": {"mean": mean},
        "best": {"mean": mean + 0.1},
        "epochs_tested": [1, 2],
        "test_accuracy": [[0.1, mean]],
        "device": "cpu",
        "num_shards": 4,
        "clipped": {},
        "jax": "0.10.2",
        **extra,
    }


@pytest.fixture
def results():
    at = {"name": "adversarial_training", "radius": 8, "protocol": "pil"}
    config = Sweep(
        data_name="noise",
        defenses={"none": "none", "at": at, "gray": "grayscale"},
        victims={"small": SMALL},
    )
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


def test_a_row_of_which_a_part_is_protected(tmp_path, config):
    half = row("one_pixel", fraction=0.5)
    sweep = dataclasses.replace(
        config, generators={"all": "one_pixel", "half": half}, blocks=(), seeds=(0,)
    )
    _run(sweep, tmp_path / "run")
    clean = sweep.data.load()
    for name, share in (("all", 1.0), ("half", 0.5)):
        made = artifact.load(plan.artifact_path(tmp_path / "run", name))
        changed = (made.dataset.images != clean.images).any((1, 2, 3)).mean()
        assert changed == pytest.approx(share, abs=0.05)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "half (l0 1 pixel, 50 % of the images)" in table.render(results)
    assert "fraction" not in results["protected"]["all"]
    # Runs of the time before rows had one go on.
    assert "fraction" not in sweep.to_plain()["generators"]["all"]


def test_rows_that_differ_in_their_seed(tmp_path, config):
    rows = {"one": "random_noise", "zero": row("random_noise", seed=0)}
    rows |= {"second": row("random_noise", seed=2)}
    sweep = dataclasses.replace(
        config, generators=rows, generator_seed=1, blocks=(), seeds=(0,)
    )
    results = _run(sweep, tmp_path / "run")
    made = {
        name: artifact.load(plan.artifact_path(tmp_path / "run", name)) for name in rows
    }
    seeds = {name: found.metadata["seed"] for name, found in made.items()}
    assert seeds == {"one": 1, "zero": 0, "second": 2}
    told = {name: row.get("seed") for name, row in results["protected"].items()}
    assert told == {"one": None, "zero": 0, "second": 2}
    assert "| second (generator seed 2) |" in table.render(results)
    images = {found.dataset.images.tobytes() for found in made.values()}
    assert len(images) == 3
    # Runs of the time before rows had one go on.
    assert "seed" not in sweep.to_plain()["generators"]["one"]
    assert sweep.to_plain()["generators"]["zero"]["seed"] == 0


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "first"])
def test_a_seed_of_a_row_that_is_none(seed):
    with pytest.raises(ValueError, match="seed of a row holds"):
        row("one_pixel", seed=seed)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, "half"])
def test_a_share_that_is_none(fraction):
    with pytest.raises(ValueError, match="fraction"):
        row("one_pixel", fraction=fraction)


def test_a_row_may_have_an_export_of_its_own():
    em = row("error_minimizing", export="drop_negative", epochs=2)
    config = Sweep(generators={"em": em}, generator_seed=3, num_shards=2)
    made = plan.protection(config, "em")
    assert made.export == "drop_negative"
    assert made.generator.config.epochs == 2
    assert (made.seed, made.num_shards) == (3, 2)
    assert "export" not in made.generator.to_plain()


def test_comma_separated_values_hold_every_cell(results):
    results["protected"]["lsp"]["export"] = "truncate"
    rows = list(csv.DictReader(io.StringIO(table.to_csv(results))))
    assert [row["export"] for row in rows] == ["round", "truncate", "truncate"]
    assert [row["generator"] for row in rows] == ["clean", "lsp", "lsp"]
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


def test_without_matplotlib_there_is_no_heat_map(tmp_path, config, monkeypatch):
    config = dataclasses.replace(config, blocks=(FIRST_BLOCK,))
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert _run(config, tmp_path / "run")["done"] == 2
    assert (tmp_path / "run" / "table.md").exists()
    assert not (tmp_path / "run" / "heat_map.png").exists()


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


def _work(count, arguments, logs, look=lambda: None):
    launch.follow(lambda: local.start(count, arguments, logs), look)


def test_workers_have_a_device_and_cores_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    script = (
        "import os; print(os.environ['CUDA_VISIBLE_DEVICES'],"
        " *sorted(os.sched_getaffinity(0)))"
    )
    sleeping = f"import time; time.sleep(0.5); {script}"
    _work(2, _script(sleeping), tmp_path)
    told = [(tmp_path / f"worker_{i}.log").read_text().split() for i in range(2)]
    assert [words[0] for words in told] == ["3", "5"]
    cores = [set(words[1:]) for words in told]
    assert not cores[0] & cores[1]


def test_no_more_workers_than_devices_that_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES lists 1: 3"):
        _work(2, _script(""), tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    _work(1, _script(script), tmp_path)
    assert (tmp_path / "worker_0.log").read_text() == "''\n", "hidden GPUs were shown"


def test_no_more_workers_than_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(local, "_DEVICE_FILES", tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ValueError, match="devices is 2, and there are 1 GPUs"):
        _work(2, _script(""), tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    _work(2, _script(""), tmp_path)
    _work(1, _script(""), tmp_path)


def test_a_worker_that_fails_is_reported(tmp_path, capsys):
    script = "import sys; print('it is broken', file=sys.stderr); sys.exit(2)"
    with pytest.raises(SystemExit) as ended:
        _work(1, _script(script), tmp_path)
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
        _work(1, _script(script), tmp_path, stop_once_ready)
    assert ended.value.code == 143
    assert time.monotonic() - began < 50, "the worker was not told to stop"


def test_workers_end_when_their_parent_is_killed():
    child = (
        "import os, sys, time\n"
        "from miue_jax.workflows.sweep.launchers import local\n"
        "local.end_with(int(sys.argv[1]))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {child!r}, str(os.getpid())]\n"
        "subprocess.run(command)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
        began = time.monotonic()
        # The pipe is closed once the worker has ended, too.
        assert process.stdout.read() == ""
    assert time.monotonic() - began < 50, "the worker went on"


@pytest.mark.parametrize("count", [0, 100_000])
def test_more_workers_than_cores_are_refused(tmp_path, count):
    with pytest.raises(ValueError, match=f"devices is {count}; allowed: from 1 to"):
        _work(count, _script(""), tmp_path)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_finish_the_sweep(tmp_path, config):
    file = tmp_path / "small_sweep.py"
    text = "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
    text += f"    return ConfigDict({config.to_plain()!r}, convert_dict=True)\n"
    file.write_text(text)
    command = [sys.executable, "-m", "miue_jax", "sweep", "--config", str(file)]
    command += ["--workdir", str(tmp_path / "run"), "--devices=2", "--quiet"]
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
    assert results["cells"] == _run(config, tmp_path / "whole")["cells"]


def test_tables_take_a_tenth_of_the_time_of_quick_cells(tmp_path, config, monkeypatch):
    now, reports = [0.0], []

    def report(*_):
        reports.append(now[0])
        now[0] += 0.5
        return {}

    def run_cell(*_, **__):
        now[0] += 1.0

    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=None)
    monkeypatch.setattr(runs, "time", clock)
    monkeypatch.setattr(runs, "report", report)
    monkeypatch.setattr(runs, "_run_cell", run_cell)
    many = dataclasses.replace(config, generators=["clean"], seeds=range(20), blocks=())
    cells = len(plan.cells(many))
    _run(many, tmp_path / "run")
    # At the start, when ten times their duration is over, and at the end.
    assert reports[:2] == [0.0, 5.5]
    assert now[0] == cells + 0.5 * len(reports)
    assert len(reports) <= 2 + cells / 5
