"""Settings from Python files, and options that override them."""

import json
import pathlib

import pytest

from miue_jax import generators
from miue_jax.data import artifact
from miue_jax.workflows import evaluate, protect
from tests.commands.refused import assert_refused, content

_FIELDS = {
    "protect": """{
        "data": {"name": "data.npz", "per_class": 6},
        "generator": {"name": "random_noise", "radius": 4.0},
        "select": {"classes": ["1"], "fraction": 0.5},
        "seed": 3,
    }""",
    "evaluate": """{
        "train": "protected.npz",
        "test": {"name": "data.npz", "split": "test"},
        "victim": {"model": "linear", "epochs": 1},
        "defense": {"name": "cutout", "size": 4},
        "seeds": [3],
    }""",
    "sweep": """{
        "data": "data.npz",
        "generators": {"clean": None, "noise": {"name": "random_noise", "radius": 4.0}},
        "defenses": {"none": "none", "hole": "cutout-4"},
        "victims": {"small": {"model": "linear", "epochs": 1}},
        "blocks": [{"defenses": ["none"]}, {"generators": ["noise"]}],
    }""",
}
_DATACLASSES = {
    "protect": """
from miue_jax import generators
from miue_jax.data import DataSource
from miue_jax.workflows.protect import ProtectConfig, Selection

def get_config(radius="4"):
    return ProtectConfig(
        data=DataSource("data.npz", per_class=6),
        generator=generators.spec("random_noise", radius=float(radius)),
        select=Selection(classes=("1",), fraction=0.5),
        seed=3,
    )
""",
    "evaluate": """
from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.evaluate import EvaluateConfig

def get_config():
    return EvaluateConfig(
        train=DataSource("protected.npz"),
        test=DataSource("data.npz", split="test"),
        victim=victims.VictimConfig(model="linear", epochs=1),
        defense="cutout-4",
        seeds=(3,),
    )
""",
    "sweep": """
import miue_jax as mj
from miue_jax.workflows.sweep.plan import Block, row

def get_config():
    return mj.Sweep(
        data="data.npz",
        generators={"clean": None, "noise": row("random_noise", radius=4.0)},
        defenses={"none": "none", "hole": "cutout-4"},
        victims={"small": mj.victims.VictimConfig(model="linear", epochs=1)},
        blocks=(Block(defenses=("none",)), Block(generators=("noise",))),
    )
""",
}


def _source(name: str, form: str) -> str:
    if form == "dataclass":
        return _DATACLASSES[name]
    if form == "mapping":
        return f"def get_config():\n    return {_FIELDS[name]}\n"
    return (
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({_FIELDS[name]})\n"
    )


def _results(name: str, workdir: pathlib.Path) -> dict:
    if name == "protect":
        return artifact.load(workdir / protect.ARTIFACT).metadata
    return json.loads((workdir / evaluate.RESULTS).read_text())


@pytest.mark.parametrize("form", ["dataclass", "mapping", "ml_collections"])
@pytest.mark.parametrize("name", ["protect", "evaluate", "sweep"])
def test_a_configuration_file_has_the_settings_and_options_override_them(
    miue, site, name, form
):
    (site / "mine.py").write_text(_source(name, form))
    arguments = [name, "--config", "mine.py", "--quiet"]
    status, _, errors = miue(*arguments, "--workdir=run")
    assert status == 0, errors
    found = _results(name, site / "run")
    if name == "protect":
        assert found["generator"]["radius"] == 4.0
        assert found["select"] == {"classes": ["1"], "fraction": 0.5, "seed": 0}
        assert found["seed"] == 3
        assert found["data"]["per_class"] == 6
        assert found["protected_images"] == 3
        changes = ["--seed=5", "--generator.radius=2", "--data.per-class=4"]
    elif name == "evaluate":
        assert found["victim"]["model"] == "linear"
        assert found["defense"] == {"name": "cutout", "size": 4}
        assert found["seeds"] == [3]
        changes = [
            "--seeds",
            "0",
            "1",
            "--victim.learning-rate=0.5",
            "--defense.size=2",
        ]
    else:
        assert (found["done"], found["planned"]) == (3, 3)
        assert found["defenses"]["hole"] == {"name": "cutout", "size": 4}
        assert found["protected"]["noise"]["radius"] == 4.0
        changes = ["--generators", "noise", "random_noise", "--seeds=1"]
    status, _, errors = miue(*arguments, "--workdir=changed", *changes)
    assert status == 0, errors
    found = _results(name, site / "changed")
    if name == "protect":
        assert found["generator"]["radius"] == 2.0
        assert found["seed"] == 5
        assert found["data"]["per_class"] == 4
        assert found["select"]["classes"] == ["1"]
        changes = ["--generator=one_pixel", "--generator.pixels=2"]
    elif name == "evaluate":
        assert found["victim"]["learning_rate"] == 0.5
        assert found["victim"]["model"] == "linear"
        assert found["defense"] == {"name": "cutout", "size": 2}
        assert found["seeds"] == [0, 1]
        changes = ["--victim=em", "--defense=none", "--victim.epochs=1"]
        changes.append("--victim.model=linear")
    else:
        # What is not of the file is taken by its name; all of them in every column.
        assert found["generators"] == ["noise", "random_noise"]
        assert (found["done"], found["planned"]) == (4, 4)
        assert found["protected"]["random_noise"]["radius"] == 8.0
        return
    status, _, errors = miue(*arguments, "--workdir=another", *changes)
    assert status == 0, errors
    found = _results(name, site / "another")
    if name == "protect":
        assert found["generator"] == generators.spec("one_pixel", pixels=2).to_plain()
    else:
        assert found["victim"]["clip_norm"] == 5.0
        assert found["defense"] == {"name": "none"}


def test_a_sweep_may_be_device_invariant_in_all_its_runs(miue, site):
    (site / "mine.py").write_text(_source("sweep", "mapping"))
    arguments = ["sweep", "--config", "mine.py", "--quiet", "--workdir=run"]
    status, _, errors = miue(*arguments, "--device-invariant")
    assert status == 0, errors
    configs = [json.loads(p.read_text()) for p in (site / "run").rglob("config.json")]
    assert len(configs) > 4  # the sweep's, a protection's and three victims'
    assert all(config["device_invariant"] is True for config in configs)
    status, _, errors = miue(*arguments)
    assert status == 2
    assert "device_invariant is True there and not set here" in errors


def test_a_configuration_file_may_take_an_argument(miue, site):
    (site / "mine.py").write_text(_source("protect", "dataclass"))
    arguments = ["protect", "--config=mine.py:7", "--workdir=run", "--quiet"]
    assert miue(*arguments)[0] == 0
    assert _results("protect", site / "run")["generator"]["radius"] == 7.0


BROKEN = {
    "syntax": ("def get_config(:\n", "mine.py: SyntaxError: invalid syntax"),
    "import": ("import no_such_module\n", "mine.py: ModuleNotFoundError: No module"),
    "nothing": ("def get_config():\n    return None\n", "get_config returned None"),
    "number": (
        "def get_config():\n    return 5\n",
        "or a mapping of its fields, got 5",
    ),
    "no function": ("x = 1\n", "mine.py: it has no function get_config"),
    "error": ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError: division"),
    "exit": ("raise SystemExit(3)\n", "mine.py: SystemExit: 3"),
    "base": (
        "class E(BaseException):\n    pass\n\ndef get_config():\n    raise E('b')\n",
        "mine.py: E: b (mine.py, line 5)",
    ),
    "conversion": (
        "class C:\n    def to_dict(self):\n        raise KeyError('x')\n\n"
        "def get_config():\n    return C()\n",
        "mine.py: KeyError: 'x' (mine.py, line 3)",
    ),
    "assertion": ("assert False, 'no'\n", "mine.py: AssertionError: no (mine.py, line"),
    "argument": (
        "def get_config(a):\n    return {}\n",
        "mine.py: TypeError: get_config",
    ),
    "key": (
        "def get_config():\n    return {'sede': 3}\n",
        "mine.py: unknown setting 'sede'",
    ),
}
BROKEN_VALUES = {
    "protect": {
        "{'data': 5}": "data are 5; allowed: a name, a path",
        "{'data': {'nme': 'x'}}": "unknown setting of data 'nme'",
        "{'select': 5}": "select is 5; it must be a mapping",
        "{'data': {'nam': 'x'}}": "did you mean 'name'",
        "{'select': {'fracton': 1}}": "did you mean 'fraction'",
        "{'select': {'classes': 5}}": "classes is 5; it must be a list",
        "{'select': {'classes': 'cat'}}": "classes is 'cat'; it must be a list",
        "{'generator': {'name': 'mi_ue', 'schedule': 'altern'}}": (
            "did you mean 'alternating'"
        ),
        "{'generator': 5}": "unknown generator '5'",
        "{'generator': {'radius': 4}}": "unknown generator None",
        "{'generator': {'name': 'random_noise', 'radius': 'x'}}": "radius is 'x'",
        "{'generator': {'name': 'random_noise', 'radus': 4}}": "did you mean 'radius'",
        "{'data': 'shapes', 'seed': 'x'}": "seed holds 'x'",
        "{'data': 'shapes', 'num_shards': 'x'}": "num_shards is 'x'",
        "{'data': 'shapes', 'device_invariant': 'x'}": "device_invariant is 'x'",
        "{'data': 'shapes', 'export': 'rund'}": "did you mean 'round'",
    },
    "evaluate": {
        "{'train': 5}": "data are 5; allowed: a name, a path",
        "{'victim': 5}": "victim is 5; allowed: the name of a protocol",
        "{'victim': {'model': ['a']}}": "victim model is ['a']; it must be a string",
        "{'victim': 'quik'}": "did you mean 'quick'",
        "{'victim': {'epoch': 3}}": "did you mean 'epochs'",
        "{'defense': 5}": "defense is 5; allowed: a name",
        "{'defense': None}": "defense is None; allowed: a name",
        "{'defense': ('jpeg', 5)}": "defense is ('jpeg', 5); allowed: a name",
        "{'defense': {'name': 'jpeg', 'qualty': 5}}": "did you mean 'quality'",
        "{'defense': 'cutuot'}": "did you mean 'cutout'",
        "{'seeds': 5}": "seeds is 5; it must be a list",
        "{'seeds': {0: 1}}": "seeds is {0: 1}; it must be a list",
        "{'train': 'shapes', 'test': 'shapes', 'seeds': ['x']}": "seeds holds 'x'",
        "{'train': 'shapes', 'test': 'shapes', 'device_invariant': 5}": (
            "device_invariant is 5"
        ),
    },
    "sweep": {
        "{'data': 5}": "mine.py: ",
        "{'seeds': 5}": "seeds is 5; it must be a list",
        "{'generators': None}": "generators is None; it must be a list",
        "{'generators': [None]}": "generators holds None, which has no name",
        "{'generators': ['claen']}": "did you mean 'clean'",
        "{'generators': {3: None}}": "name 3 in generators",
        "{'data_name': 5}": "data_name is 5; it must be a string",
        "{'blocks': 5}": "blocks is 5; it must be a list",
        "{'generators': ['radnom_noise']}": "did you mean 'random_noise'",
        "{'generators': {'a-b': None}}": "name 'a-b' in generators",
        "{'defenses': 5}": "defenses is 5; it must be a list",
        "{'victims': {'a': {'epoch': 3}}}": "did you mean 'epochs'",
        "{'blocks': [5]}": "blocks hold 5",
        "{'blocks': [{'seds': [1]}]}": "did you mean 'seeds'",
        "{'blocks': [{'generators': ['none']}]}": "blocks[0].generators 'none'",
    },
    "measure": {
        "{'data': 5}": "data are a int; allowed: a name or path",
        "{'victims': 5}": "victims is 5; it must be a list",
        "{'victims': [5]}": "run is 5; it must be a string",
        "{'layers': 'features'}": "layers is 'features'; it must be a list",
        "{'noise_variances': 5}": "noise_variances is 5; it must be a list",
        "{'protected': 5}": "protected is 5; it must be a string",
        "{'estimators': 5}": "estimators are 5; allowed: an EstimatorConfig",
        "{'victim': 5}": "did you mean 'victims'",
        "{'victims': {'a': {'run': 5}}}": "run is 5; it must be a string",
    },
}


@pytest.mark.parametrize("name", ["protect", "evaluate", "sweep", "measure"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_file_is_one_line(miue, site, name, case):
    source, message = BROKEN[case]
    (site / "mine.py").write_text(source)
    before = content(site)
    result = miue(name, "--config", "mine.py", "--workdir=run")
    assert_refused(result, name, message)
    assert "mine.py" in result[2]
    assert content(site) == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(n, v, m) for n, values in BROKEN_VALUES.items() for v, m in values.items()],
)
def test_a_bad_value_of_a_configuration_file_is_one_line(
    miue, site, name, value, message
):
    (site / "mine.py").write_text(f"def get_config():\n    return {value}\n")
    before = content(site)
    result = miue(name, "--config", "mine.py", "--workdir=run")
    assert_refused(result, name, message)
    assert content(site) == before


def test_views_are_named_and_then_changed(miue, tmp_path):
    options = (
        *("--data.per-class=4", "--generator=mi_ue/interleaved", "--quiet"),
        *("--generator.model=mlp2", "--generator.width=8", "--generator.epochs=1"),
        *("--generator.batch-size=20", "--generator.pgd-steps=1"),
    )
    views = ("--generator.views", "compression", "--generator.views.min-quality=7")
    status, _, errors = miue(
        "protect", "shapes", *options, *views, f"--workdir={tmp_path / 'run'}"
    )
    assert status == 0, errors
    found = _results("protect", tmp_path / "run")["generator"]["views"]
    assert (found["jpeg"], found["min_quality"]) == (0.7, 7)
    status, _, errors = miue(
        "protect", "shapes", *options, "--generator.views=nix", "--workdir=run"
    )
    assert status == 2
    assert "unknown views 'nix'" in errors
