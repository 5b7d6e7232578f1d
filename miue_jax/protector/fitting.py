"""Fitting a protector: its network and fresh classifiers lower one loss together.

With pictures x of codes c, a network g, a classifier f and the strength r,

    min_g min_f  mean_i CE(f(T(x_i + r g(x_i, c_i))), c_i),

where T draws a crop, its size and a view for every picture. A share of the pictures
gets a code at random in each step, so that the code, and not what a picture shows,
decides on its perturbation: it works for pictures that it was not fitted on. The
classifier starts again from new weights now and then: what is found must mislead every
one of them from the start.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import models
from miue_jax._checks import check_number, check_seeds, check_text
from miue_jax.budget import to_unit
from miue_jax.image import augment, views
from miue_jax.image.views import ViewsConfig
from miue_jax.protector import protector
from miue_jax.protector.network import UNet
from miue_jax.protector.protector import Settings

# What happens to pictures on the web, in shares of them.
_VIEWS = ViewsConfig(
    jpeg=0.45, grayscale=0.1, blur=0.1, noise=0.05, min_quality=20, max_quality=90
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
      steps: of the network, and of the classifiers together.
      batch_size: pictures in a step.
      learning_rate: of the network (Adam), which falls along a cosine to a twentieth.
      model: the classifier, see `miue_jax.models.NAMES`.
      model_width: its width; None for the published one.
      model_learning_rate: of the classifier (Adam).
      classifiers: how many are trained, one after another.
      random_codes: share of the pictures that get a code at random.
      view_size: pixels of a side of what the classifier sees, at most.
      least_area: of a crop, as a share of the picture.
      views: what else happens to the crops.
      seed: of all draws.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax import protector
      >>> protector.FitConfig(steps=10).batch_size
      48
    """

    steps: int = 400
    batch_size: int = 48
    learning_rate: float = 2e-3
    model: str = "resnet10"
    model_width: int | None = 16
    model_learning_rate: float = 2e-3
    classifiers: int = 4
    random_codes: float = 0.1
    view_size: int = 40
    least_area: float = 0.3
    views: ViewsConfig = _VIEWS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "classifiers", "view_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("learning_rate", "model_learning_rate"):
            check_number(name, getattr(self, name), "> 0")
        check_text("model", self.model)
        if self.model_width is not None:
            check_number("model_width", self.model_width, "> 0", whole=True)
        check_number("random_codes", self.random_codes, "in [0, 1]")
        check_number("least_area", self.least_area, "in (0, 1]")
        object.__setattr__(self, "views", views.preset(self.views))
        if self.views.mixes:
            raise ValueError("views mix pictures; a protector needs one code for each")
        check_seeds("seed", (self.seed,))


class State(NamedTuple):
    """The state of a fit.

    Attributes:
      step: () int32, steps taken.
      network: parameters of the `UNet`.
      network_optimizer: of them.
      model: variables of the classifier.
      model_optimizer: of its parameters.

    Example:
      >>> from miue_jax import protector
      >>> protector.State._fields[0]
      'step'
    """

    step: jax.Array
    network: Any
    network_optimizer: Any
    model: Any
    model_optimizer: Any


class Fit(NamedTuple):
    """A fit as pure functions.

    Attributes:
      init: key -> state.
      step: (key, state, images (N, s, s, 3) uint8, codes (N,) int32) -> (state,
        metrics). A code of -1 is one at random in each step. The key is that of the
        whole fit.

    Example:
      >>> from miue_jax import protector
      >>> protector.Fit._fields
      ('init', 'step')
    """

    init: Callable[[jax.Array], State]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]


def fit(config: FitConfig, settings: Settings, size: int) -> Fit:
    """Creates a fit.

    Args:
      config: of the fit.
      settings: of the protector.
      size: pixels of a side of the images.

    Returns:
      The functions.

    Raises:
      ValueError: if the model is unknown or does not take the views.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import protector
      >>> made = protector.fit(
      ...     protector.FitConfig(batch_size=2, model="linear", model_width=None),
      ...     protector.Settings(num_codes=2, width=8),
      ...     32,
      ... )
      >>> state = jax.jit(made.init)(jax.random.key(0))
      >>> images = jnp.zeros((4, 32, 32, 3), jnp.uint8)
      >>> codes = jnp.array([0, 1, 0, 1])
      >>> step = jax.jit(made.step)
      >>> state, metrics = step(jax.random.key(0), state, images, codes)
      >>> int(state.step), sorted(metrics)
      (1, ['change', 'loss', 'right'])
    """
    # Two, or there would be nothing to tell apart.
    num_codes = max(2, settings.num_codes)
    net = UNet(num_codes=settings.num_codes, width=settings.width)
    classifier = models.create(
        config.model, num_classes=num_codes, width=config.model_width
    )
    optimizer = optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.05)
    )
    model_optimizer = optax.adam(config.model_learning_rate)
    seen = min(size, config.view_size)
    turn = -(-config.steps // config.classifiers)
    views.check(config.views, (seen, seen, 3))

    def fresh(key: jax.Array) -> tuple[Any, Any]:
        variables = classifier.init(key, jnp.zeros((1, seen, seen, 3)), train=False)
        return variables, model_optimizer.init(variables["params"])

    def init(key: jax.Array) -> State:
        params = protector.untrained(key, settings).params
        model, model_state = fresh(key)
        return State(jnp.int32(0), params, optimizer.init(params), model, model_state)

    def step(
        key: jax.Array, state: State, images: jax.Array, codes: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        keys = jax.random.split(jax.random.fold_in(key, state.step), 8)
        model, model_state = lax.cond(
            (state.step % turn == 0) & (state.step > 0),
            lambda: fresh(keys[0]),
            lambda: (state.model, state.model_optimizer),
        )
        chosen = jax.random.randint(keys[1], (config.batch_size,), 0, len(images))
        batch = augment.random_flip(keys[2], images[chosen].astype(jnp.float32) / 255)
        drawn = jax.random.randint(keys[3], chosen.shape, 0, settings.num_codes)
        free = jax.random.bernoulli(keys[4], config.random_codes, chosen.shape)
        kinds = jnp.where(free | (codes[chosen] < 0), drawn, codes[chosen])

        def loss(network: Any, params: Any) -> tuple[jax.Array, Any]:
            made = jnp.asarray(net.apply({"params": network}, batch, kinds))
            change = to_unit(settings.strength) * protector.as_gray(made, batch)
            shown = jnp.clip(batch + change, 0, 1)
            shown = _crops(keys[5], shown, seen, config.least_area)
            draws = views.draw(keys[6], len(shown), shown.shape[1:], config.views)
            shown = views.see(shown, draws, config.views)
            variables: Any = {**model, "params": params}
            (_, logits), updated = classifier.apply(
                variables, shown, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, kinds)
            metrics = {
                "loss": losses.mean(),
                "right": (logits.argmax(-1) == kinds).mean(),
                "change": 255 * jnp.abs(change).mean(),
            }
            return metrics["loss"], (updated, metrics)

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        grads, (updated, metrics) = gradient(state.network, model["params"])
        change, network_state = optimizer.update(grads[0], state.network_optimizer)
        network = optax.apply_updates(state.network, change)
        change, model_state = model_optimizer.update(grads[1], model_state)
        params = optax.apply_updates(model["params"], change)
        model = {**model, **updated, "params": params}
        after = State(state.step + 1, network, network_state, model, model_state)
        return after, metrics

    return Fit(init, step)


def _crops(
    key: jax.Array, images: jax.Array, size: int, least_area: float
) -> jax.Array:
    """Square crops of random area and place, resized to one size."""
    side = images.shape[1]

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key)
        area = jax.random.uniform(keys[0], (), minval=least_area, maxval=1.0)
        span = side * jnp.sqrt(area)
        start = jax.random.uniform(keys[1], (2,)) * (side - span)
        scale = size / span
        return jax.image.scale_and_translate(
            *(image, (size, size, 3), (0, 1), jnp.full(2, scale), -start * scale),
            "linear",
            antialias=True,
        )

    return jax.vmap(one)(jax.random.split(key, len(images)), images)
