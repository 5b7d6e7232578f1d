"""The README's tables say what the results say."""

import json
import pathlib

import pytest

from miue_jax.workflows import table

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
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
        }
    },
    "cells": [
        {
            "method": method,
            "defense": "none",
            "victim": "resnet10",
            "seeds": [0, 1],
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


def _measured(method, depth, accuracy, value, layer="features"):
    return {
        "layer": layer,
        "method": method,
        "depth": depth,
        "accuracy": accuracy,
        "images": 50,
        "bracket": {"problem": "too few images"},
        "estimates": {"ksg": {"value": value}, "infonce": {"value": None}},
    }


def test_a_measurement_shows_the_features_and_how_they_go_with_depth():
    entries = [
        _measured("clean", 10, 0.6, 5.0),
        _measured("clean", 18, 0.7, 4.0),
        _measured("clean", 34, 0.8, 3.0),
        _measured("em", 10, 0.2, 1.25),
        _measured("em", 18, 0.1, 1.0),
        _measured("em", 34, 0.1, 1.5),
        _measured("em", 34, 0.1, 99.0, layer="stem"),
    ]
    correlation = {"layer": "features", "measure": "ksg", "spearman": 0.9}
    text = table.render(
        {
            "command": "python experiments/measure.py",
            "entries": entries,
            "correlations": [correlation, {**correlation, "layer": "stem"}],
            "noise_variances": [0.1, 1.0],
            "held_out": True,
            "hardware": "x86_64",
            "versions": {"jax": "0.10.2"},
        }
    )
    rows = [[cell.strip() for cell in r.split("|")[1:-1]] for r in text.splitlines()]
    column = rows[0].index("KSG, pooled")
    shown = {tuple(row[:3]): row[column] for row in rows if len(row) > column}
    assert shown["clean", "10", "60.0"] == "5.00"
    assert shown["em", "18", "10.0"] == "1.00"
    assert "99.00" not in text
    by_title = {row[0]: row[column] for row in rows if len(row) > column}
    assert by_title["Spearman with accuracy"] == "+0.90"
    # Falls with depth in one, rises in half of the steps of the other.
    assert by_title["Spearman with depth, mean of methods"] == "-0.25"
    assert "held-out" in text
    for entry in entries:
        entry["layer"] = "stem"
    with pytest.raises(ValueError, match="no layer 'features'"):
        table.render({"entries": entries, "correlations": []})


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
