"""The documentation names what there is: the public names, the fields of results."""

import importlib
import inspect
import json
import pathlib
import pkgutil
import re

import pytest

import miue_jax
from miue_jax.train import run_directory

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
DIRECTIVE = re.compile(r"auto(module|function|class|data|exception):: ([\w.]+)")
# Fields whose contents are settings or names of the user's.
OPEN = ("data", "estimators", "versions", "protocol")


def _listed() -> list[tuple[str, str]]:
    return [found for page in PAGES for found in DIRECTIVE.findall(page.read_text())]


def _public(module) -> dict[str, object]:
    """Functions and classes that a module offers; all of its own without `__all__`."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    names = getattr(module, "__all__", own)
    values = {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in values.items()
        if inspect.isfunction(value) or inspect.isclass(value)
    }


def _modules() -> list[str]:
    walked = pkgutil.walk_packages(miue_jax.__path__, "miue_jax.")
    names = [info.name for info in walked]
    return [n for n in names if not any(p.startswith("_") for p in n.split("."))]


def test_what_the_api_pages_list_exists():
    assert _listed()
    for kind, name in _listed():
        if kind == "module":
            importlib.import_module(name)
        else:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_the_api_pages_list_every_public_name():
    shown = set()
    for kind, name in _listed():
        if kind == "module":
            shown |= {id(v) for v in _public(importlib.import_module(name)).values()}
        else:
            module, _, attribute = name.rpartition(".")
            shown.add(id(getattr(importlib.import_module(module), attribute)))
    missing = [
        f"{name}.{attribute}"
        for name in _modules()
        if hasattr(module := importlib.import_module(name), "__all__")
        for attribute, value in _public(module).items()
        if id(value) not in shown
    ]
    missing += [
        f"miue_jax.{name}"
        for name in dir(miue_jax)
        if callable(value := getattr(miue_jax, name)) and id(value) not in shown
    ]
    assert not missing


def test_every_api_page_is_in_the_index():
    index = (ROOT / "docs" / "api" / "index.md").read_text().split()
    assert {page.stem for page in PAGES} - {"index"} <= set(index)


def _fields(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_fields, value))
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for name, inner in value.items():
        if name == "estimates":  # by estimator, which docs/theory.md lists
            found |= set().union(*map(_fields, inner.values()))
        elif name not in OPEN:
            found |= _fields(inner)
    return found


@pytest.mark.parametrize("name", ["problem", "p_value", "values", "bias"])
def test_fields_that_not_every_measurement_has_are_documented(name):
    assert f"`{name}`" in (ROOT / "docs" / "runs.md").read_text()


def test_every_field_of_a_measurement_is_documented():
    results = json.loads((ROOT / "results" / "measure.json").read_text())
    page = (ROOT / "docs" / "runs.md").read_text()
    section = page[page.index("## What a measurement holds") :]
    section = section[: section.index("\n## ", 3)]
    documented = set(re.findall(r"`(\w+)`", section))
    fields = _fields(results)
    assert {"spearman", "within_classes_limit", "near_ceiling"} <= fields
    assert fields <= documented, fields - documented


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_committed_results_are_as_they_were_written_and_name_no_folder_of_ours(path):
    run_directory.read_json(path, own=False)
    assert not re.search(r'"[^"]*/(tmp|work|home|root)/', path.read_text())
