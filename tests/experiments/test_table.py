"""The README's tables say what the results say."""

import json
import pathlib

import pytest
import table

ROOT = pathlib.Path(__file__).parents[2]

RESULTS = {
    "command": "python experiments/matrix.py --workdir runs/x",
    "data": "CIFAR-10",
    "processor": "x86_64",
    "planned": 3,
    "done": 3,
    "protected": {},
    "defenses": {"none": "none"},
    "victims": {
        "resnet10": {
            "model": "resnet10",
            "width": None,
            "epochs": 20,
            "learning_rate": 0.1,
        }
    },
    "cells": [
        {
            "method": method,
            "defense": "none",
            "victim": "resnet10",
            "final": {"mean": mean, "std": std, "values": [mean, mean]},
            "device": ["cpu"],
            "jax": ["0.10.2"],
        }
        for method, mean, std in (("clean", 0.6712, 0.012), ("mi_ue", 0.1, None))
    ],
}


def test_results_without_a_table_are_refused():
    with pytest.raises(ValueError, match="results with theory have no table"):
        table.render({"theory": []})


def test_filling_replaces_only_what_is_marked(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table: r.json -->\nold\n<!-- end -->\nafter\n")
    assert table.main([str(readme), "--check"]) == 1
    assert table.main([str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "67.1 ± 1.2" in text
    assert table.main([str(readme), "--check"]) == 0


def test_missing_results_are_named(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: none.json -->\n<!-- end -->\n")
    with pytest.raises(OSError, match=r"none\.json"):
        table.main([str(readme)])


def test_the_readme_is_up_to_date():
    assert table.main([str(ROOT / "README.md"), "--check"]) == 0
