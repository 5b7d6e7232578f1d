"""The batch of a step of min-min generation, and how the surrogates see it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax.budget import to_unit
from miue_jax.generators import surrogate, transformed
from miue_jax.generators.adversary import adversarial_change
from miue_jax.generators.min_min.config import MinMinConfig
from miue_jax.generators.min_min.state import Engine
from miue_jax.generators.transformed import Transformed
from miue_jax.image.augment import flip_where, random_crop
from miue_jax.train import classifier, sampling
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Batch, Shards


class _Uses(NamedTuple):
    """Of the keys of a batch."""

    view: int
    transformation: int
    adversary: int


# Keys of a run are folded with these, so that no two uses share a stream.
INIT, TRAIN_ORDER, PERTURB_ORDER = 0, 1, 2
_TRAIN = _Uses(view=3, transformation=5, adversary=7)
_PERTURB = _Uses(view=4, transformation=6, adversary=8)


class View(NamedTuple):
    """A random view of a batch, the same each time it is used.

    Attributes:
      carriers: (B, H, W, C), the images to which the perturbations are added.
      placed: perturbed carriers (B, H, W, C), transformed or not -> mirrored and
        shifted ones, differentiable.
      seen: the same -> the surrogate's input, which is normalized too.
    """

    carriers: jax.Array
    placed: Callable[[jax.Array], jax.Array]
    seen: Callable[[jax.Array], jax.Array]


class Visit(NamedTuple):
    """A batch, and how it is seen.

    Attributes:
      batch: the images.
      view: of them.
      transformed: number of a step of projected gradient, or their number for the
        training that follows -> what happens to perturbed carriers before the view.
      adversary_keys: the same -> (g,) keys of the adversary's start.
    """

    batch: Batch
    view: View
    transformed: Callable[[jax.Array | int], Transformed]
    adversary_keys: Callable[[jax.Array | int], jax.Array]


def _draw_view(
    key: jax.Array, shard: jax.Array, images: jax.Array, config: MinMinConfig
) -> View:
    """Draws how a batch (g, b, H, W, C) is mirrored and shifted, shard by shard."""
    size = images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    both = jax.vmap(jax.random.split)(sampling.shard_keys(key, shard))
    flip_keys, crop_keys = jnp.unstack(both, axis=1)
    toss = jax.vmap(lambda k: jax.random.bernoulli(k, shape=(size,)))
    mirrored = toss(flip_keys).reshape(-1)

    def placed(perturbed: jax.Array) -> jax.Array:
        if config.flip == "joint":
            perturbed = flip_where(mirrored, perturbed)
        if config.crop:
            crop = jax.vmap(lambda k, x: random_crop(k, x, padding=config.crop))
            shaped = perturbed.reshape(images.shape)
            perturbed = crop(crop_keys, shaped).reshape(flat.shape)
        return perturbed

    def seen(perturbed: jax.Array) -> jax.Array:
        return surrogate.normalize(placed(perturbed), config)

    carriers = flip_where(mirrored, flat) if config.flip == "image_only" else flat
    return View(carriers, placed, seen)


def _draw_transformed(
    engine: Engine,
    key: jax.Array,
    use: int,
    count: jax.Array,
    data: Shards,
    batch: Batch,
    progress: jax.Array,
) -> Callable[[jax.Array | int], Transformed]:
    """Draws the transformations of batch number `count`: one view, or one a step."""
    views = engine.config.views
    key = jax.random.fold_in(jax.random.fold_in(key, use), count)

    def draw(key: jax.Array) -> Transformed:
        return transformed.draw(
            *(key, data.shard, batch.images.shape, batch.labels, views),
            num_classes=engine.spec.num_classes,
            progress=progress,
        )

    if views.redraw == "step":
        return lambda step: draw(jax.random.fold_in(key, step))
    drawn = draw(key)
    return lambda step: drawn


def next_train_batch(
    engine: Engine,
    key: jax.Array,
    state: State,
    data: Shards,
    count: jax.Array,
    batches: int,
    *,
    epoch_steps: int,
) -> tuple[State, Visit]:
    """Takes training batch number `count`."""
    config = engine.config
    number, position = jnp.divmod(count, batches)
    order_key = jax.random.fold_in(jax.random.fold_in(key, TRAIN_ORDER), number)
    order = state.per_example.train_order
    order = sampling.order_of_pass(order_key, position, order, data)
    state = state._replace(per_example=state.per_example._replace(train_order=order))
    batch = sampling.take(data, order, position, engine.spec.share(config.batch_size))
    progress = (count // epoch_steps) / config.epochs
    return state, _visit(engine, key, _TRAIN, data, batch, count, progress)


def next_perturb_batch(
    engine: Engine,
    key: jax.Array,
    state: State,
    data: Shards,
    count: jax.Array,
    batches: int,
    *,
    epoch: jax.Array,
) -> tuple[State, Visit]:
    """Takes batch number `count` of the perturbation passes."""
    config = engine.config
    number, position = jnp.divmod(count, batches)
    order_key = jax.random.fold_in(jax.random.fold_in(key, PERTURB_ORDER), number)
    order = state.per_example.perturb_order
    order = sampling.order_of_pass(order_key, position, order, data)
    state = state._replace(per_example=state.per_example._replace(perturb_order=order))
    share = engine.spec.share(config.perturbation_batch_size)
    batch = sampling.take(data, order, position, share)
    progress = epoch / config.epochs
    return state, _visit(engine, key, _PERTURB, data, batch, count, progress)


def _visit(
    engine: Engine,
    key: jax.Array,
    uses: _Uses,
    data: Shards,
    batch: Batch,
    count: jax.Array,
    progress: jax.Array,
) -> Visit:
    """Draws how batch number `count` is seen."""
    view_key = jax.random.fold_in(jax.random.fold_in(key, uses.view), count)
    return Visit(
        batch,
        _draw_view(view_key, data.shard, batch.images, engine.config),
        _draw_transformed(
            engine, key, uses.transformation, count, data, batch, progress
        ),
        _adversary_keys(key, uses.adversary, count, data),
    )


def _adversary_keys(
    key: jax.Array, use: int, count: jax.Array, data: Shards
) -> Callable[[jax.Array | int], jax.Array]:
    key = jax.random.fold_in(jax.random.fold_in(key, use), count)
    return lambda step: sampling.shard_keys(key, data.shard, step)


def look_at(
    engine: Engine,
    number: int,
    variables: Any,
    visit: Visit,
    perturbed: jax.Array,
    step: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """What a surrogate sees of perturbed carriers in a step, and the targets."""
    config = engine.config
    changed = visit.transformed(step)
    placed = visit.view.placed(changed.see(perturbed))
    if config.adversarial_radius:

        def entropy(images: jax.Array) -> jax.Array:
            outputs: Any = engine.modules[number].apply(
                variables, surrogate.normalize(images, config), train=False
            )
            return classifier.cross_entropy(outputs[1], changed.targets)

        change = adversarial_change(
            visit.adversary_keys(step),
            lax.stop_gradient(placed),
            entropy,
            radius=to_unit(config.adversarial_radius),
            step_size=to_unit(config.adversarial_step_size),
            num_steps=config.adversarial_steps,
        )
        placed = placed + lax.stop_gradient(change)
    return surrogate.normalize(placed, config), changed.targets
