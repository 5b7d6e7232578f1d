"""The run loop: exact however it is cut, stopped by a signal, strict about steps."""

import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import checkpoints, loop, parallel, sampling
from miue_jax.train import metrics as means


def test_a_stop_between_two_marks_keeps_the_sums_of_the_means(tmp_path, monkeypatch):
    """However calls are cut, by clocks or signals, the means are equal bit for bit."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    data = parallel.place(
        sampling.deal(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int32), 1),
        mesh,
        parallel.DATA_SPEC,
    )
    key = parallel.run_key(0, "test", mesh)

    def step(key, state, data):
        draw = jax.random.normal(jax.random.fold_in(key, state.step))
        return state._replace(step=state.step + 1), {"draw": means.mean_of(draw, 0.1)}

    def first():
        state = parallel.State(jnp.int32(0), None, None)
        return parallel.place(state, mesh, parallel.STATE_SPEC)

    advance = loop.advance(step, mesh)

    def go(directory, *, seconds_a_call, signal_at=None):
        monkeypatch.setattr(loop, "_SECONDS_A_CALL", seconds_a_call)
        received = []

        def watched(key, state, data, stop, totals=None):
            if signal_at is not None and stop >= signal_at:
                received.append(signal.SIGTERM)
            return advance(key, state, data, stop, totals)

        with checkpoints.Checkpoints(directory) as saved:
            step, state, totals = loop.resume(saved, first())
            return loop.run_until(
                100,
                watched,
                key,
                state,
                data,
                step=step,
                totals=totals,
                saved=saved,
                received=received,
            )[1]

    whole = go(tmp_path / "whole", seconds_a_call=1e3)
    assert go(tmp_path / "small", seconds_a_call=0.0) == whole
    with pytest.raises(loop.Stopped):
        go(tmp_path / "stopped", seconds_a_call=0.0, signal_at=37)
    with checkpoints.Checkpoints(tmp_path / "stopped") as saved:
        assert saved.latest_step == 37
    assert go(tmp_path / "stopped", seconds_a_call=1e3) == whole


@pytest.mark.parametrize("device_invariant", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_is_traced_once(devices, device_invariant):
    """For its metrics and for the loop, which takes seconds for a deep network."""
    mesh = parallel.data_mesh(jax.devices()[:devices])
    dealt = sampling.deal(np.zeros((4, 1, 1, 1), np.uint8), np.arange(4) % 2, devices)
    traced = []

    def step(key, state, data):
        traced.append(state.step)
        return state._replace(step=state.step + 1), {"step": means.mean_of(state.step)}

    advance = loop.advance(step, mesh, device_invariant=device_invariant)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = parallel.run_key(0, "test", mesh)
    state = parallel.State(jnp.int32(0), None, None)
    state = parallel.place(state, mesh, parallel.STATE_SPEC)
    state, totals = advance(key, state, data, 3)
    state, totals = advance(key, state, data, 5, totals)
    assert int(state.step) == 5
    assert means.values(totals) == {"step": 2.0}
    assert len(traced) == 1


def test_signals_are_collected_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)

    def receive():
        with loop.stop_signals() as received:
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM]

    with pytest.raises(loop.Stopped) as stopped:
        receive()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_kills():
    script = (
        "import os, signal\n"
        "from miue_jax.train import loop\n"
        "with loop.stop_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('and now', flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert ended.stdout == "still here\n", ended.stderr
    assert ended.returncode == -signal.SIGTERM


def test_a_state_or_metrics_of_another_type_are_refused():
    mesh = parallel.data_mesh(jax.devices()[:1])
    images = np.zeros((4, 1, 1, 1), np.uint8)
    data = sampling.deal(images, np.zeros(4, np.int32), 1)
    key, state = jax.random.key(0), parallel.State(jnp.int32(0), None, None)
    with pytest.raises(ValueError, match=r"init must return a parallel\.State, got"):
        loop.start(lambda key, data: (jnp.int32(0), None), mesh)(key, data)
    advance = loop.advance(lambda key, state, data: (state, {"loss": state.step}), mesh)
    with pytest.raises(ValueError, match=r"step must return its metrics .*mean_of"):
        advance(key, state, data, 1)
