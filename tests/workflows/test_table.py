"""Tables of results: what they show, and that the texts' tables are up to date."""

import copy
import functools
import json
import os
import pathlib

import pytest

from miue_jax import cli
from miue_jax.workflows import table

ROOT = pathlib.Path(__file__).parents[2]

RESULTS = {
    "command": "miue sweep --workdir runs/x",
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
            "generator": generator,
            "defense": "none",
            "victim": "resnet10",
            "seeds": [0, 1],
            "final": {"mean": mean, "std": std, "values": [mean, mean]},
            "device": ["cpu"],
            "jax": ["0.10.2"],
        }
        for generator, mean, std in (("clean", 0.6712, 0.012), ("mi_ue", 0.1, None))
    ],
}


def test_victims_have_a_row_for_every_seed():
    final = {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
    results = {
        "train": {"name": "runs/protected.npz"},
        "test": {"name": "shapes"},
        "victim": {"model": "resnet10", "epochs": 3},
        "defense": {"name": "jpeg", "quality": 10},
        "seeds": [3, 5],
        "final": final,
        "best": {"mean": 0.65, "std": 0.05, "values": [0.6, 0.7]},
    }
    assert table.render(results).splitlines() == [
        "| seed | last epoch | best epoch |",
        "|---|---:|---:|",
        "| 3 | 40.0 | 60.0 |",
        "| 5 | 60.0 | 70.0 |",
        "| mean | 50.0 ± 10.0 | 65.0 ± 5.0 |",
        "",
        "Accuracy in % on clean test images; trained and tested on runs/protected.npz "
        "and shapes, resnet10, 3 epochs, defense jpeg.",
    ]


def test_the_folder_of_a_run_without_results_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no results\.json; runs of evaluate"):
        table.table(tmp_path)


def test_results_without_a_table_are_refused():
    with pytest.raises(ValueError, match="none of the runs that have a table"):
        table.render({"theory": []})


def _measured(generator, depth, accuracy, value, layer="features"):
    return {
        "layer": layer,
        "generator": generator,
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
            "command": "miue measure",
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
    assert by_title["Spearman with depth, mean of generators"] == "-0.25"
    assert "held-out" in text
    for entry in entries:
        entry["layer"] = "stem"
    with pytest.raises(ValueError, match="no layer 'features'"):
        table.render({"entries": entries, "correlations": []})


def test_without_depths_there_is_no_rank_with_depth():
    entries = [_measured("clean", None, accuracy, 5.0) for accuracy in (0.6, 0.7)]
    text = table.render(
        {
            "command": "miue measure",
            "entries": entries,
            "correlations": [],
            "noise_variances": [0.1],
            "held_out": False,
            "hardware": "x86_64",
            "versions": {"jax": "0.10.2"},
        }
    )
    assert "| clean |  | 60.0 |" in text
    assert "depth, mean" not in text
    assert "training pairs" in text


def test_filling_replaces_only_what_is_marked(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table: r.json -->\nold\n<!-- end -->\nafter\n")
    assert cli.main(["table", str(readme), "--check"]) == 1
    assert cli.main(["table", str(readme)]) == 0
    text = readme.read_text()
    assert text == table.table(readme)
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "67.1 ± 1.2" in text
    assert cli.main(["table", str(readme), "--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_results_are_printed_from_a_file_or_the_folder_of_a_run(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    for path in (tmp_path, tmp_path / "results.json"):
        assert cli.main(["table", str(path)]) == 0
        assert capsys.readouterr().out == table.render(RESULTS) + "\n"


def test_missing_results_are_named(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: none.json -->\n<!-- end -->\n")
    with pytest.raises(OSError, match=r"none\.json"):
        table.table(readme)
    assert cli.main(["table", str(readme)]) == 2
    errors = capsys.readouterr().err
    assert "none.json" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("results/*.json")), ids=lambda p: p.stem
)
def test_committed_results_have_todays_names(path):
    results = json.loads(path.read_text())
    text = json.dumps(results)
    assert '"method"' not in text
    assert "grey" not in text
    if "cells" in results or "entries" in results or "planned" in results:
        assert len(table.render(results).splitlines()) > 5


def test_the_tables_of_the_texts_are_up_to_date():
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        assert table.table(path) == path.read_text(), path


VALUES = (None, True, 3, "x", [], [[]], {}, {"a": 1}, [None], "x" * 10**5)


def _places(value, place=()):
    yield place
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value[:1])
        for key, item in items:
            yield from _places(item, (*place, key))


@pytest.mark.parametrize("place", [*_places(RESULTS)], ids=str)
def test_wrong_contents_are_one_line_that_names_the_file(miue, tmp_path, place):
    """Results of another program, or of a hand that slipped, anywhere in a file."""
    path = tmp_path / "results.json"
    for value in (*VALUES, KeyError):
        results = copy.deepcopy({"all": RESULTS})
        *outer, last = ("all", *place)
        target = functools.reduce(lambda inner, key: inner[key], outer, results)
        if value is KeyError:
            del target[last]
        else:
            target[last] = value
        path.write_text(json.dumps(results.get("all")))
        status, output, errors = miue("table", path)
        assert status in (0, 2)
        if status == 2:
            assert (output, len(errors.splitlines())) == ("", 1), errors
            assert errors.startswith(f"miue table: {path}")
            assert "MIUE_TRACEBACK" not in errors
            assert len(errors) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[1]", "it holds no JSON object"),
        ('{"cells": NaN}', "it holds NaN, which is not JSON"),
        ('{"cells": 1e999}', "it holds the number 1e999"),
        ('{"cells": []}', "the results are damaged: there is no 'victims'"),
        ('{"cells": ' + "[" * 10**5, "it is nested more than 64 levels deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "it is nested more than 64 levels deep"),
    ],
)
def test_what_is_no_results_is_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    for path in (tmp_path, tmp_path / "results.json"):
        with pytest.raises(ValueError, match=message) as raised:
            table.table(path)
        assert str(raised.value).startswith(str(tmp_path / "results.json"))


def test_a_pipe_is_neither_read_nor_replaced(miue, tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    status, _, errors = miue("table", tmp_path / "pipe.md")
    assert (status, errors) == (2, f"miue table: {tmp_path / 'pipe.md'}: is no file\n")
    assert (tmp_path / "pipe.md").is_fifo()


def test_results_beyond_the_memory_are_not_parsed(tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    monkeypatch.setenv("MIUE_MEMORY", "1e-6")
    with pytest.raises(ValueError, match=r"it would need .* MIUE_MEMORY"):
        table.table(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("generators", "x"), ("defenses", []), ("done", {}), ("victims", "x")],
)
def test_values_that_would_be_shown_as_they_are_must_be_of_their_type(name, value):
    with pytest.raises(ValueError, match=f"^the results are damaged: {name} is "):
        table.render({**RESULTS, name: value})


def test_a_marked_table_has_an_end(tmp_path):
    path = tmp_path / "text.md"
    path.write_text("<!-- table: a.json -->\n")
    with pytest.raises(ValueError, match="a marked table has no end"):
        table.table(path)
