"""T1, T10, T11 and F8 over random finite distributions p(y, c, p)."""

import functools

import jax
import jax.numpy as jnp
from theory.check import Slack, equal, ordered

from miue_jax.information import bounds
from miue_jax.information.tasks import random_pmf
from miue_jax.information.tasks.finite import entropy, mutual_information

_SHAPE = (3, 4, 5)  # labels, values of c, values of p
_Y, _C, _P = (0,), (1,), (2,)


@functools.partial(jax.jit, static_argnums=1)
def _quantities(key: jax.Array, count: int) -> dict[str, jax.Array]:
    """Everything about `count` distributions, from spread out to nearly certain."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 8)
        spread = jax.random.uniform(keys[0], minval=0.5, maxval=6.0)
        pmf = random_pmf(keys[1], _SHAPE, spread=spread)
        balanced = pmf / jnp.sum(pmf, axis=(1, 2), keepdims=True) / len(pmf)
        # Each c and each p is given to one label: it then determines the label.
        of_c = jax.nn.one_hot(jax.random.randint(keys[2], (4,), 0, 3), 3, axis=0)
        of_p = jax.nn.one_hot(jax.random.randint(keys[3], (5,), 0, 3), 3, axis=0)
        table = pmf * of_c[:, :, None]
        y_from_c = table / jnp.sum(table)
        table = pmf * of_p[:, None]
        y_from_p = table / jnp.sum(table)
        head_c = jax.nn.log_softmax(2 * jax.random.normal(keys[4], (3, 4)), axis=0)
        head_p = jax.nn.log_softmax(2 * jax.random.normal(keys[5], (3, 5)), axis=0)
        layer_c = jax.nn.one_hot(jax.random.randint(keys[6], (4,), 0, 2), 2)
        layer_p = jax.nn.one_hot(jax.random.randint(keys[7], (5,), 0, 3), 3)
        layered = jnp.einsum("ycp,cd,pq->ydq", pmf, layer_c, layer_p)
        answer = jax.nn.one_hot(jnp.argmax(head_c, axis=0), 3, axis=0)
        joint = jnp.sum(balanced, axis=2)
        return {
            **_information(pmf, ""),
            **_information(balanced, "balanced_"),
            **_information(y_from_c, "y_from_c_"),
            **_information(y_from_p, "y_from_p_"),
            "loss_c": -jnp.sum(jnp.sum(pmf, axis=2) * head_c),
            "loss_p": -jnp.sum(jnp.sum(pmf, axis=1) * head_p),
            "layered": mutual_information(layered, _C, _P),
            "accuracy": jnp.sum(joint * answer),
            "bayes_accuracy": jnp.sum(jnp.max(joint, axis=0)),
        }

    return jax.vmap(one)(jax.random.split(key, count))


def _information(pmf: jax.Array, prefix: str) -> dict[str, jax.Array]:
    found = {
        "cp": mutual_information(pmf, _C, _P),
        "yc": mutual_information(pmf, _Y, _C),
        "yp": mutual_information(pmf, _Y, _P),
        "cp_y": mutual_information(pmf, _C, _P, given=_Y),
        "yp_c": mutual_information(pmf, _Y, _P, given=_C),
        "y": entropy(pmf, _Y),
    }
    return {f"{prefix}{name}": value for name, value in found.items()}


def decomposition(key: jax.Array, count: int) -> dict[str, Slack]:
    """T1: the decomposition, the sandwich and the bracket."""
    q = jax.device_get(_quantities(key, count))
    residual_c, residual_p = q["y"] - q["yc"], q["y"] - q["yp"]
    certain = "y_from_c_"
    return {
        "I(c;p) = I(Y;p) + I(c;p|Y) - I(Y;p|c)": equal(
            q["cp"], q["yp"] + q["cp_y"] - q["yp_c"]
        ),
        "(i) lower side": ordered(q["yp"] + q["cp_y"] - residual_c, q["cp"]),
        "(i) upper side": ordered(q["cp"], q["yp"] + q["cp_y"]),
        "(i) equality where c determines Y": equal(
            q[certain + "cp"], q[certain + "yp"] + q[certain + "cp_y"]
        ),
        "(ii) I(c;Y) - H(Y|p) <= I(c;p)": ordered(q["yc"] - residual_p, q["cp"]),
        "(ii) I(c;p) <= I(c;Y) + I(c;p|Y)": ordered(q["cp"], q["yc"] + q["cp_y"]),
        "(iii) H(Y) - CE_c - CE_p <= I(c;p)": ordered(
            q["y"] - q["loss_c"] - q["loss_p"], q["cp"]
        ),
        "(iii) I(c;p) <= H(Y) + I(c;p|Y)": ordered(q["cp"], q["y"] + q["cp_y"]),
    }


def generalization(key: jax.Array, count: int) -> dict[str, Slack]:
    """T10: information about the label limits accuracy."""
    q = jax.device_get(_quantities(key, count))
    residual = q["y"] - q["yp"]
    label = q["balanced_yc"]
    through = q["balanced_cp"] + q["balanced_y"] - q["balanced_yp"]
    errors = jnp.linspace(0.01, 0.66, 50)  # up to chance
    attained = jnp.log(3.0) + (1 - errors) * jnp.log1p(-errors)
    attained += errors * jnp.log(errors / 2)
    levels = jnp.asarray([0.05, 0.2, 0.5, 1.0, 1.5, 2.0, 2.2])
    printed = [0.207, 0.332, 0.495, 0.689, 0.837, 0.951, 0.986]
    proved = bounds.fano_information(q["accuracy"], 3)
    above = q["accuracy"] >= 1 / 3
    return {
        "I(Y;c) <= I(c;p) + H(Y|p)": ordered(q["yc"], q["cp"] + residual),
        "H(Y|p) <= cross-entropy": ordered(residual, q["loss_p"]),
        "d(accuracy || chance) <= I(Y;c)": ordered(jnp.where(above, proved, 0), label),
        "accuracy <= inverse Fano of I(Y;c)": ordered(
            q["bayes_accuracy"], bounds.fano_accuracy(label, 3)
        ),
        "accuracy <= inverse Fano of I(c;p) + H(Y|p)": ordered(
            q["bayes_accuracy"], bounds.fano_accuracy(through, 3)
        ),
        "attained by the symmetric channel": equal(
            bounds.fano_accuracy(attained, 3), 1 - errors, 1e-7
        ),
        "table of ten classes": equal(bounds.fano_accuracy(levels, 10), printed, 6e-4),
    }


def depth(key: jax.Array, count: int) -> dict[str, Slack]:
    """T11: deterministic layers cannot add information."""
    q = jax.device_get(_quantities(key, count))
    return {"I(f(c);g(p)) <= I(c;p)": ordered(q["layered"], q["cp"])}


def floor(key: jax.Array, count: int) -> dict[str, Slack]:
    """F8: collapse cannot take I(c;p) below I(c;Y) while p identifies Y."""
    q = jax.device_get(_quantities(key, count))
    value = ordered(q["y_from_p_yc"], q["y_from_p_cp"])
    return {"I(c;p) >= I(c;Y) where p determines Y": value}


def accuracies(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """I(Y;c) and Bayes accuracy of random balanced channels, for the plot."""
    q = jax.device_get(_quantities(key, count))
    return q["balanced_yc"], q["bayes_accuracy"]
