"""The verification passes what is true and fails what is not."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import verify_theory
from theory import check, counterexamples, covariance, estimators, finite

from miue_jax.information import bounds

SCRIPT = pathlib.Path(verify_theory.__file__)
FANO = check.Check("T10", finite.generalization, 60, 60)


@pytest.fixture
def only_fano(monkeypatch):
    monkeypatch.setattr(verify_theory, "CHECKS", (FANO,))
    monkeypatch.setattr(verify_theory, "draw", lambda *_, **__: None)
    monkeypatch.setattr(verify_theory._command_line, "keep_compiled", lambda: None)


def options(workdir, **changes):
    return verify_theory.Options(workdir=workdir, quick=True, **changes)


def start(monkeypatch, workdir):
    arguments = ["verify_theory.py", "--workdir", str(workdir), "--quick"]
    monkeypatch.setattr(sys, "argv", arguments)
    return verify_theory.main()


def read(workdir):
    return json.loads((workdir / verify_theory.RESULTS).read_text())


# Judging ---------------------------------------------------------------------------


def test_the_worst_instance_decides():
    result = check.judge("T0", "a claim", check.Slack([0.3, -0.2, 0.1], 0.1))
    assert not result.passed
    assert result.slack == pytest.approx(-0.2)
    assert result.instances == 3
    assert check.judge("T0", "a claim", check.Slack([0.3, -0.05], 0.1)).passed


def test_every_instance_has_its_own_tolerance():
    slack = check.Slack([-1.0, -0.5], [2.0, 0.1])
    result = check.judge("T0", "a claim", slack)
    assert not result.passed
    assert (result.slack, result.tolerance) == (-0.5, 0.1)


def test_what_is_not_a_number_fails():
    assert not check.judge("T0", "a claim", check.Slack([1.0, math.nan])).passed


def test_equalities_fail_to_both_sides():
    for value in (0.9, 1.1):
        assert not check.judge("T0", "", check.equal(value, 1.0, 0.05)).passed
    assert check.judge("T0", "", check.equal(1.04, 1.0, 0.05)).passed


# The script ------------------------------------------------------------------------


def test_true_statements_pass(only_fano, monkeypatch, tmp_path, capsys):
    assert start(monkeypatch, tmp_path) == 0
    found = read(tmp_path)
    assert found["passed"]
    assert all(claim["passed"] for claim in found["claims"])
    assert {claim["statement"] for claim in found["claims"]} == {"T10"}
    table = capsys.readouterr().out
    for claim in found["claims"]:
        assert claim["claim"] in table
    assert "7 of 7 claims hold" in table


def test_a_wrong_bound_is_reported_with_status_1(
    only_fano, monkeypatch, tmp_path, capsys
):
    right = bounds.fano_accuracy
    monkeypatch.setattr(
        finite.bounds, "fano_accuracy", lambda *args: 0.9 * right(*args)
    )
    assert start(monkeypatch, tmp_path) == 1
    found = read(tmp_path)
    assert not found["passed"]
    failed = [claim for claim in found["claims"] if not claim["passed"]]
    assert len(failed) == 4  # all that use the inverse of Fano's inequality
    table = capsys.readouterr().out
    assert table.count("FAILED") == 4
    assert f"failed: T10, {failed[0]['claim']}" in table


def test_bad_input_is_refused(only_fano, tmp_path):
    with pytest.raises(ValueError, match=r"--seed .* -1"):
        verify_theory.run(options(tmp_path / "new", seed=-1))
    assert not (tmp_path / "new").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="not a directory"):
        verify_theory.run(options(file))


@pytest.mark.slow
def test_bad_flags_end_in_one_line_with_status_2(tmp_path):
    for arguments in (["--seed", "-1"], ["--seed", "one"], ["--quik"]):
        done = subprocess.run(
            [sys.executable, SCRIPT, "--workdir", tmp_path / "new", *arguments],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, arguments
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (tmp_path / "new").exists()


# The statements --------------------------------------------------------------------


@pytest.mark.parametrize(
    "slacks",
    [
        covariance.gaussian_forms,
        estimators.club,
        estimators.density_ratio,
        counterexamples.total_covariance,
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_statements_hold_for_other_seeds(slacks, seed):
    with jax.enable_x64(True):
        found = slacks(jax.random.key(seed), 10)
        for claim, slack in found.items():
            assert check.judge("", claim, slack).passed, (claim, slack)


def test_every_statement_is_checked():
    statements = {entry.statement for entry in verify_theory.CHECKS}
    wanted = {f"T{i}" for i in range(1, 15)} | {f"F{i}" for i in range(1, 11)}
    assert wanted | {"E1", "E2", "E3", "E4", "S"} == statements
    for entry in verify_theory.CHECKS:
        assert 0 < entry.quick <= entry.count, entry


def test_a_false_claim_about_covariance_fails():
    # F2 as if it were true: less covariance, less information.
    with jax.enable_x64(True):
        slack = counterexamples.residual(jax.random.key(0), 2)
    value = np.asarray(slack["Cov 4 to 1.1, information up"].value)
    assert not check.judge("F2", "down", check.Slack(-value)).passed


@pytest.mark.slow
def test_the_quick_run_passes_and_draws(tmp_path):
    assert verify_theory.run(options(tmp_path, seed=3))
    names = {path.name for path in tmp_path.iterdir()}
    plots = {name for name in names if name.endswith(".png")}
    assert len(plots) == 4
    assert names == plots | {verify_theory.RESULTS}
    for name in plots:
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 20_000


@pytest.mark.parametrize("seed", [-1, 2**32, 10**22])
def test_a_seed_that_keys_cannot_hold_is_refused(tmp_path, seed):
    options = verify_theory.Options(workdir=tmp_path / "run", seed=seed)
    with pytest.raises(ValueError, match=f"--seed holds {seed}; allowed: integers fr"):
        verify_theory.run(options)
    assert not (tmp_path / "run").exists()
