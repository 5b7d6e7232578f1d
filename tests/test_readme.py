"""The README's Python runs as it stands."""

import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_python_in_the_readme_runs(monkeypatch):
    # Configurations of one's own import the scripts'.
    monkeypatch.syspath_prepend(ROOT / "experiments")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert np.isfinite(float(names["loss"]))
    assert np.isfinite(float(names["spread"]))
    assert names["gradient"].shape == (64, 512)
    assert 0 < np.abs(names["delta"]).max() <= 8 / 255 + 1e-6
    assert names["hidden"].shape[0] == 20
    assert abs(names["estimate"].value - names["task"].information) < 0.1
    assert 0 < float(names["within"]) < np.inf
    assert 0.1 < float(names["accuracy"]) < 0.6
    subset = names["subset"].images
    gray = names["purified"]
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    assert names["mixed"].shape == names["images"].shape
    assert names["weights"].shape == (20, 10)
    assert names["compressed"].shape == names["images"].shape
    own = names["inverted"](subset.shape[1:], 10)
    np.testing.assert_array_equal(own.purify(None, subset, None), 255 - subset)
    matrix = names["get_config"]()
    assert matrix.methods.mi_ue_4.radius == 4.0
    assert list(matrix.blocks.mine.methods) == ["clean", "mi_ue_4"]
