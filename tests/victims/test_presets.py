"""Protocols of victims: what was published, their learning rates, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import classifier, loop, parallel, sampling
from miue_jax.victims import presets, training
from miue_jax.victims.presets import PROTOCOLS, VictimConfig

STEPS = 10  # in an epoch


def _rates(config, epochs):
    schedule = presets.learning_rate(config, STEPS)
    return [float(schedule(jnp.int32(round(epoch * STEPS)))) for epoch in epochs]


_PUBLISHED = [
    # The rate in the first epoch, right before and at each drop, and in the last.
    ("authors", 200, 1e-4, 128, {0: 0.5, 100: 0.25, 199: 0.5 * 6.17e-5}),
    ("em", 60, 5e-4, 128, {0: 0.1, 30: 0.05, 20: 0.075}),
    ("iss", 60, 5e-4, 128, {0: 0.1, 30: 0.05, 20: 0.075}),
    ("pil", 30, 1e-4, 512, {0: 0.1, 15: 0.05}),
    ("apbench", 200, 5e-4, 256, {0: 0.1, 99.9: 0.1, 100: 0.05, 199: 0.05}),
    (
        "authors_adversarial",
        *(100, 5e-4, 128),
        {0: 0.1, 39.9: 0.1, 40: 0.01, 79.9: 0.01, 80: 0.001, 99: 0.001},
    ),
    ("em_adversarial", 100, 5e-4, 128, {0: 0.1, 50: 0.05}),
    ("pil_adversarial", 100, 1e-4, 128, {0: 0.1, 50: 0.05}),
    ("apbench_adversarial", 200, 5e-4, 256, {99.9: 0.1, 100: 0.05}),
    ("rem_adversarial", 102, 5e-4, 128, {40.7: 0.1, 40.8: 0.01, 81.6: 0.001}),
    ("dune_adversarial", 80, 0.0, 128, {0: 0.1, 79: 0.1}),
    (
        "hypo_adversarial",
        *(100, 5e-4, 128),
        {74.9: 0.1, 75: 0.01, 89.9: 0.01, 90: 0.001},
    ),
    ("ueraser", 200, 5e-4, 128, {99.9: 0.01, 100: 1e-3, 149.9: 1e-3, 150: 1e-4}),
    (
        "orthogonal_projection",
        *(50, 1e-4, 128),
        {24.9: 0.1, 25: 0.01, 36.9: 0.01, 37: 0.001},
    ),
]


def test_every_protocol_is_here():
    assert {row[0] for row in _PUBLISHED} | {"quick"} == set(PROTOCOLS)


@pytest.mark.parametrize(
    ("name", "epochs", "weight_decay", "batch_size", "rates"), _PUBLISHED
)
def test_protocols_are_the_published_ones(
    name, epochs, weight_decay, batch_size, rates
):
    config = PROTOCOLS[name]
    assert (config.epochs, config.weight_decay) == (epochs, weight_decay)
    assert config.batch_size == batch_size
    assert _rates(config, rates) == pytest.approx(list(rates.values()), rel=1e-3)


def test_only_the_protocol_of_em_clips_gradients():
    clipped = {name for name, c in PROTOCOLS.items() if c.clip_norm is not None}
    assert clipped == {"em", "em_adversarial"}
    assert PROTOCOLS["em"].clip_norm == 5.0


def test_milestones_that_fall_on_one_step_both_count():
    schedule = classifier.stepwise(1.0, (0.5, 0.55, 1.0), num_steps=4, drop=0.5)
    assert [float(schedule(step)) for step in range(5)] == [1, 1, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("clip_norm", [1e-3, None])
def test_a_victim_takes_steps_of_the_clipped_gradient(clip_norm):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    config = VictimConfig(
        model="mlp2",
        width=8,
        epochs=1,
        batch_size=16,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=clip_norm,
    )
    victim = training.victim(
        config, num_examples=16, num_classes=2, axis_name=parallel.AXIS
    )
    mesh = parallel.data_mesh(jax.devices()[:1])
    dealt = sampling.deal(images, np.arange(16) % 2, 1)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(victim.init, mesh)(key, data)
    before = parallel.to_host(state.shared.variables["params"])
    state, _ = loop.advance(victim.step, mesh)(key, state, data, 1)
    after = parallel.to_host(state.shared.variables["params"])
    changes = jax.tree.map(lambda a, b: np.sum((a - b) ** 2), before, after)
    length = np.sqrt(sum(jax.tree.leaves(changes)))
    if clip_norm is None:
        assert length > 0.01, "the step is short by itself"
    else:
        assert length == pytest.approx(clip_norm, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.0}, r"epochs is 2\.0"),
        ({"batch_size": 1.5}, r"batch_size is 1\.5"),
        ({"width": 0}, "width is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1'"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; did you mean 'cosine'"),
        ({"schedule": "steps", "milestones": 0.5}, r"milestones is 0\.5; allowed"),
        ({"schedule": "steps", "milestones": (40,)}, "milestones is 40"),
        ({"milestones": (0.5,)}, r"milestones are \(0\.5,\); allowed with the cosine"),
        ({"drop": 0}, "drop is 0"),
        ({"momentum": 5}, "momentum is 5"),
        ({"weight_decay": -1e-4}, r"weight_decay is -0\.0001"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"clip_norm": 0}, "clip_norm is 0"),
        ({"dtype": "float16"}, "dtype is 'float16'; did you mean 'bfloat16'"),
    ],
)
def test_impossible_protocols_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VictimConfig(**change)
