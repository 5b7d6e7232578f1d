"""The README's tables say what the results say."""

import copy
import json
import pathlib

import pytest
import table

ROOT = pathlib.Path(__file__).parents[2]

RESULTS = {
    "command": "python experiments/compare.py --workdir runs/x",
    "data": "CIFAR-10",
    "hardware": "x86_64, 1 x cpu",
    "jax": "0.10.2",
    "seeds": [0, 1],
    "cells": [
        {
            "source": source,
            "victim": "resnet10",
            "protocol": {"epochs": 20},
            "final": {"mean": mean, "std": std, "values": []},
        }
        for source, mean, std in (("clean", 0.6712, 0.012), ("mi_ue", 0.1, None))
    ],
}


def test_a_table_has_means_spreads_and_gaps():
    results = copy.deepcopy(RESULTS)
    results["cells"].append({**results["cells"][0], "victim": "lenet5"})
    text = table.render(results)
    assert "| trained on | resnet10 | lenet5 |" in text
    assert "| clean | 67.1 ± 1.2 | 67.1 ± 1.2 |" in text
    assert "| mi_ue | 10.0 |  |" in text
    for told in ("seeds 0, 1", "20 epochs", "CIFAR-10", "jax 0.10.2", "compare.py"):
        assert told in text


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
