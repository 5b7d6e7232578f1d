"""The README: its Python runs as it stands, its commands parse, its links lead on."""

import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_in_the_readme_runs(tmp_path, monkeypatch, one_device):
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("python")
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    audit = names["protected"].metadata["audit"]
    assert 0 < audit["max_change"] <= 8
    assert 0 <= names["results"]["final"]["mean"] <= 1
    assert names["sweep"].generators["mi_ue"].generator.config.radius == 4.0
    assert len(names["sweep"].seeds) == 3
    images = jnp.zeros((4, 8, 8, 3))
    delta = names["stripes"](jax.random.key(0), images, jnp.arange(4) % 2)
    assert delta.shape == images.shape
    assert 0 < np.abs(delta).max() <= 8 / 255 + 1e-6
    assert np.isfinite(float(names["loss"]))
    assert np.isfinite(float(names["spread"]))
    assert names["gradient"].shape == (64, 512)
    assert 0 < np.abs(names["delta"]).max() <= 8 / 255 + 1e-6
    assert abs(names["estimate"].value - names["task"].information) < 0.1
    assert 0 < float(names["within"]) < np.inf
    assert 0.1 < float(names["accuracy"]) < 0.6
    # The directory of a run is a temporary one unless it is named.
    assert not list(tmp_path.iterdir())


def _commands() -> list[list[str]]:
    text = "\n".join(_blocks("sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    inline = [shlex.split(x) for x in re.findall(r"`(miue [a-z]+ [^`]*)`", README)]
    words = [line for line in lines if line] + inline
    return [command for command in words if command[0] == "miue"]


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_the_commands_in_the_readme_parse(miue, tmp_path, monkeypatch, command):
    # A module of the user that a command names.
    source = next(x for x in _blocks("python") if x.startswith("# my_noise.py"))
    (tmp_path / "my_noise.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = command[1:]
    if "--workdir" in arguments:
        # The directory is asked for after everything else was parsed.
        arguments[arguments.index("--workdir") + 1] = ""
        status, _, errors = miue(*arguments)
        assert status == 2
        assert errors.endswith("--workdir is missing: name a directory for the run\n")
    elif arguments[0] == "export":
        assert "runs/photos/protected.npz: no such file" in miue(*arguments)[2]
    elif arguments == ["protect", "photos", "published"]:
        assert "photos: no such file" in miue(*arguments)[2]
    elif arguments != ["demo"]:
        assert miue(*arguments)[0] == 0


def test_the_numbers_in_the_readme_are_those_of_the_package(miue):
    for kind, pattern in {
        "generators": r"the (\d+) generators",
        "defenses": r"(\d+) defenses",
        "victims": r"(\d+) training protocols",
        "models": r"(\d+) models",
    }.items():
        count = re.search(pattern, README.replace("\n", " "))
        assert count is not None, kind
        assert int(count[1]) == len(miue("list", kind)[1].splitlines()), kind


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert links
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / link.partition("#")[0]).exists(), link
