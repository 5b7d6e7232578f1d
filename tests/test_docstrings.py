"""Every public function and class has an example in its docstring, and it runs."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import types
from collections.abc import Iterator

import pytest

import miue_jax

ROOT = pathlib.Path(__file__).parents[1]

# What users import: of a module its `__all__`; without one, of a package what its
# `__init__` defines and re-exports, and of another module what it defines.
MODULES = (
    "miue_jax",
    "miue_jax.budget",
    "miue_jax.data",
    "miue_jax.data.artifact",
    "miue_jax.data.bucket",
    "miue_jax.data.color_profile",
    "miue_jax.data.exchange",
    "miue_jax.data.picture_kinds",
    "miue_jax.defenses",
    "miue_jax.detection",
    "miue_jax.features",
    "miue_jax.generators",
    "miue_jax.generators.perturbation_store",
    "miue_jax.image.affine",
    "miue_jax.image.augment",
    "miue_jax.image.blur",
    "miue_jax.image.box",
    "miue_jax.image.color",
    "miue_jax.image.contrast",
    "miue_jax.image.jpeg",
    "miue_jax.image.mixing",
    "miue_jax.image.quality",
    "miue_jax.image.resize",
    "miue_jax.image.ssim_window",
    "miue_jax.image.views",
    "miue_jax.information",
    "miue_jax.information.bounds",
    "miue_jax.information.estimators",
    "miue_jax.information.inference",
    "miue_jax.information.tasks",
    "miue_jax.losses",
    "miue_jax.models",
    "miue_jax.pictures",
    "miue_jax.pictures.blocks",
    "miue_jax.pictures.encode",
    "miue_jax.pictures.metadata",
    "miue_jax.pictures.picture",
    "miue_jax.pictures.scan",
    "miue_jax.pictures.similarity",
    "miue_jax.projected_gradient",
    "miue_jax.protector",
    "miue_jax.protector.clusters",
    "miue_jax.protector.fitting",
    "miue_jax.protector.full_size",
    "miue_jax.protector.network",
    "miue_jax.protector.protector",
    "miue_jax.testing",
    "miue_jax.train.checkpoints",
    "miue_jax.train.classifier",
    "miue_jax.train.device_invariant",
    "miue_jax.train.loop",
    "miue_jax.train.metrics",
    "miue_jax.train.parallel",
    "miue_jax.train.run_directory",
    "miue_jax.train.sampling",
    "miue_jax.victims",
    "miue_jax.workflows.benchmark.run",
    "miue_jax.workflows.benchmark.table",
    "miue_jax.workflows.demo",
    "miue_jax.workflows.detect",
    "miue_jax.workflows.evaluate",
    "miue_jax.workflows.export",
    "miue_jax.workflows.folder.codes",
    "miue_jax.workflows.folder.fit_protector",
    "miue_jax.workflows.folder.histogram",
    "miue_jax.workflows.folder.markup",
    "miue_jax.workflows.folder.measured",
    "miue_jax.workflows.folder.plan",
    "miue_jax.workflows.folder.record",
    "miue_jax.workflows.folder.report",
    "miue_jax.workflows.folder.resumable_fit",
    "miue_jax.workflows.folder.run",
    "miue_jax.workflows.folder.squares",
    "miue_jax.workflows.folder.threads",
    "miue_jax.workflows.folder.writing",
    "miue_jax.workflows.import_perturbation",
    "miue_jax.workflows.measure.config",
    "miue_jax.workflows.measure.run",
    "miue_jax.workflows.pictures",
    "miue_jax.workflows.protect",
    "miue_jax.workflows.sweep.launch",
    "miue_jax.workflows.sweep.launchers.local",
    "miue_jax.workflows.sweep.launchers.ray",
    "miue_jax.workflows.sweep.launchers.slurm",
    "miue_jax.workflows.sweep.manifest",
    "miue_jax.workflows.sweep.plan",
    "miue_jax.workflows.sweep.run",
    "miue_jax.workflows.sweep.status",
    "miue_jax.workflows.sweep.tasks",
    "miue_jax.workflows.table",
    "miue_jax.workflows.tensorboard",
)


def _names(module: types.ModuleType) -> Iterator[str]:
    if hasattr(module, "__all__"):
        yield from module.__all__
        return
    assert module.__file__ is not None
    for node in ast.parse(pathlib.Path(module.__file__).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            # `from a import b as b` exports it.
            yield from (x.name for x in node.names if x.asname == x.name)


def _documented() -> dict[str, object]:
    """Public functions and classes, once each, by the first name they have."""
    found: dict[str, object] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute in _names(module):
            value = getattr(module, attribute)
            is_code = inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))
            # A protocol says what a function takes; there is nothing to call.
            is_protocol = getattr(value, "_is_protocol", False)
            if (
                is_code
                and not is_protocol
                and not attribute.startswith("_")
                and not any(value is other for other in found.values())
            ):
                found[f"{name}.{attribute}"] = value
    return found


DOCUMENTED = _documented()
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", DOCUMENTED)
def test_it_has_an_example(name):
    docstring = inspect.getdoc(DOCUMENTED[name]) or ""
    # That of its own: classes inherit docstrings.
    assert DOCUMENTED[name].__doc__, f"{name} has no docstring"
    assert re.search(r"^Example:\n(.*\n)*? +>>> ", docstring, re.MULTILINE), (
        f"{name} has no example"
    )


@pytest.mark.parametrize("name", DOCUMENTED)
def test_its_examples_run(name, tmp_path, monkeypatch, one_device):
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    said: list[str] = []
    value = DOCUMENTED[name]
    unwrapped = value if inspect.isclass(value) else inspect.unwrap(value)
    for test in finder.find(unwrapped, name, globs={}):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


def test_the_modules_are_those_of_the_package():
    known = {
        module.name
        for module in pkgutil.walk_packages(miue_jax.__path__, "miue_jax.")
        if not module.name.endswith("__main__")
    }
    assert set(MODULES) - {"miue_jax"} <= known
    # Those at the top are all here, but for the command and what is private.
    top = {name for name in known if name.count(".") == 1}
    parts = {".".join(name.split(".")[:2]) for name in MODULES}
    private = {name for name in top if name.partition(".")[2].startswith("_")}
    assert top - private - {"miue_jax.cli"} <= parts


def test_every_page_of_the_interface_is_covered():
    pages = (ROOT / "docs" / "api").glob("*.md")
    found = {
        name
        for page in pages
        for name in re.findall(r"automodule:: (\S+)", page.read_text())
    }
    # Generators are public by name and preset, their files for readers.
    found = {name for name in found if not name.startswith("miue_jax.generators.")}
    assert found <= set(MODULES)


def test_an_example_that_fails_is_found():
    def wrong():
        """Adds.

        Example:
          >>> 1 + 1
          3
        """

    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    for test in doctest.DocTestFinder().find(wrong, "wrong", globs={}):
        runner.run(test, out=lambda text: None)
    assert runner.failures == 1
