"""The benchmark: what it measures, what it writes and what it refuses."""

import json
import sys

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import _command_line, losses, models


@pytest.fixture
def start(monkeypatch, capfd):
    """Runs the script in this process, on one device; status, output and errors."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [benchmark.__file__, *arguments])
        status = _command_line.run(benchmark.main, benchmark.PROG)
        return status, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_measures_both_steps_of_a_small_network(tmp_path, start):
    path = tmp_path / "benchmark.json"
    tiny = ["--model", "linear", "--batch-size", "8", "--repeats", "2", "--steps", "2"]
    status, printed, errors = start(*tiny, "--json", str(path))
    assert status == 0, errors
    measured = json.loads(path.read_text())
    for kind in ("train", "perturbation"):
        assert f"{kind} step: " in printed
        result = measured["results"][kind]
        speed = result["images_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert result["share_of_matmul_peak"]["median"] > 0
        assert result["pytorch"] == {}
    assert "residual networks only" in measured["pytorch_omitted"]
    assert "residual networks only" in printed
    # A product of 3072 inputs with ten outputs: a multiplication and an addition each.
    assert 61440 <= measured["forward_flops_per_image"] < 80000
    assert measured["versions"]["jax"] == jax.__version__
    assert measured["command"].endswith(f"--json {path.name}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet19"], "resnet18"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--repeats", "-1"], "repeats is -1"),
        (["--dtype", "float8"], "float8"),
        (["--json", "nowhere/benchmark.json"], "nowhere"),
        (["--step", "3"], "--steps"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(start, arguments, said):
    status, printed, errors = start(*arguments)
    assert status == 2
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("benchmark.py: ")
    assert said in lines[0]
    assert printed == ""


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_the_pytorch_network_is_the_same_network(name):
    pytest.importorskip("torch")
    import torch_resnet

    module = models.create(name, num_classes=10, width=4)
    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False),
        jnp.zeros((1, 32, 32, 3)),
    )
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    twin = torch_resnet.ResNet(10, module.stage_sizes, module.bottleneck, module.width)
    assert sorted(p.numel() for p in twin.parameters()) == sizes


def test_the_pytorch_loss_is_the_same_loss():
    torch = pytest.importorskip("torch")
    import torch_resnet

    features = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    labels = np.arange(12) % 4
    expected = losses.similarity_loss(features, labels)
    actual = torch_resnet.similarity_loss(
        torch.from_numpy(features), torch.from_numpy(labels)
    )
    np.testing.assert_allclose(float(actual), expected, rtol=1e-5)
