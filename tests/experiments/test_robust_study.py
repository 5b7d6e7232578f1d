"""The study of what outlasts compression: its rows, its cells and its summary."""

import json

import numpy as np
import pytest
import robust_study

from miue_jax import generators
from miue_jax.data import DataSource, load
from miue_jax.workflows.sweep import plan


def _flat(settings, prefix=""):
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        else:
            found[prefix + name] = value
    return found


def test_a_row_differs_from_the_base_in_what_its_name_says():
    rows = {
        name: _flat({**row.generator.to_plain(), "fraction": row.fraction})
        for name, row in robust_study.rows().items()
        if row is not None
    }
    base = rows.pop("base")
    changed = {
        name: {k for k in base if base[k] != row[k]} for name, row in rows.items()
    }
    assert changed["gradient_soft"] == {"views.gradient"}
    assert changed["pgd_steps_4"] == {"pgd_steps"}
    assert changed["plain_0"] == {"views.jpeg"}
    assert changed["paired"] == {"entropy_weight", "similarity"}
    assert changed["surviving_half"] == {"views.gradient", "fraction"}
    assert all(changed.values())


def test_one_row_is_the_preset():
    spec = robust_study.rows()["gradient_surviving"].generator
    assert spec == generators.spec("mi_ue/robust", model="resnet10")


def test_the_most_telling_cells_come_first_and_final_rows_get_all():
    source = DataSource("shapes")
    first = plan.cells(robust_study.study(source, source, 0, ()))
    assert [cell.generator for cell in first[:8]] == ["clean"] * 4 + ["base"] * 4
    assert {cell.defense for cell in first} == set(robust_study.FIRST)
    final = plan.cells(robust_study.study(source, source, 1, ("base",)))
    assert {cell.generator for cell in final} == {"base"}
    assert {cell.defense for cell in final} == set(robust_study.DEFENSES)
    assert {cell.victim for cell in final} > set(robust_study.OTHERS)
    # Victims on clean images do not depend on the seed of a generator.
    both = plan.cells(robust_study.study(source, source, 0, ("base",)))
    trained_on = {cell.generator for cell in both if cell.victim in robust_study.OTHERS}
    assert trained_on == {"clean", "base"}


def test_bad_data_leave_nothing(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match="no such file"):
        robust_study.prepare_data(str(tmp_path / "none"), workdir)
    assert not workdir.exists()


def test_the_images_are_kept_in_one_file(tmp_path):
    train, test = robust_study.prepare_data("shapes", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data.npz"]
    for source, split in ((train, "train"), (test, "test")):
        want = load("shapes", split, per_class=500)
        np.testing.assert_array_equal(source.load().images, want.images)


def test_the_summary_joins_the_seeds_of_generator_and_victim():
    def results(*values):
        cell = {"generator": "base", "defense": "none", "victim": "resnet10"}
        seeds, final = list(range(len(values))), {"values": list(values)}
        cells = [{**cell, "seeds": seeds, "final": final}]
        return {"cells": cells, "protected": {}, "failed": {}}

    losses = {0: {"base": [[6, 2.3]]}, 1: {}}
    summary = robust_study.summarize({0: results(0.1, 0.2), 1: results(0.3)}, losses)
    (cell,) = summary["accuracies"]
    assert cell["seeds"] == [[0, 0], [0, 1], [1, 0]]
    assert cell["values"] == [0.1, 0.2, 0.3]
    assert summary["perturbation_losses"] == {"0": {"base": [[6, 2.3]]}, "1": {}}
    assert "| base | 20.0 ± 10.0 (3) |" in robust_study.table(summary)


def test_losses_of_a_row_are_read_once_a_step(tmp_path):
    lines = [
        {"step": step, "perturbation_loss": loss}
        for step, loss in [(6, 2.34567), (12, 3.0), (12, 3.0), (18, 0.5)]
    ]
    path = tmp_path / "protected" / "base" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert robust_study.held(tmp_path) == {"base": [[6, 2.346], [12, 3.0], [18, 0.5]]}
