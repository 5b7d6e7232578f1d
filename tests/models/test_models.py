"""Every network through one contract, on shapes alone wherever shapes say it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh

from miue_jax import models
from miue_jax.models import mobilenet, vit
from miue_jax.models.densenet import DenseNet
from miue_jax.models.lenet import LeNet5
from miue_jax.models.mlp import MLP, Linear
from miue_jax.models.mobilenet import MobileNetV2
from miue_jax.models.resnet import ResNet
from miue_jax.models.vgg import VGG
from miue_jax.models.vit import VisionTransformer
from miue_jax.models.wide_resnet import WideResNet

# Published counts for ten classes. VGG: less the 2,752 and 5,504 biases that batch
# normalization makes idle. MobileNetV2: 3,504,872 with 1,000 classes. ResNet-10, the
# MLPs and the linear model: counted by hand.
PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet10": (432 + 32)
    + (2 * 2_304 + 64)
    + sum(27 * c * c // 2 + c * c // 2 + 6 * c for c in (32, 64, 128))
    + 1_290,
    "vgg11": 9_231_114 - 2_752,
    "vgg19": 20_040_522 - 5_504,
    "densenet121": 6_956_298,
    "wrn28_10": 36_479_194,
    "mobilenet_v2": 3_504_872 - 990 * 1_281,
    "vit": 5_362_762,
    "lenet5": 62_006,
    "mlp2": 3_073 * 512 + 513 * 10,
    "mlp3": 3_073 * 512 + 513 * 512 + 513 * 10,
    "linear": 3_073 * 10,
}
FEATURES = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet10": 128,
    "vgg11": 512,
    "vgg19": 512,
    "densenet121": 1024,
    "wrn28_10": 640,
    "mobilenet_v2": 1280,
    "vit": 192,
    "lenet5": 84,
    "mlp2": 512,
    "mlp3": 512,
    "linear": 3072,
}
CONVOLUTIONS = {
    "resnet18": 17 + 3,
    "resnet34": 33 + 3,
    "resnet50": 49 + 4,
    "resnet10": 9 + 3,
    "vgg11": 8,
    "vgg19": 16,
    "densenet121": 120,
    "wrn28_10": 25 + 3,
    "mobilenet_v2": 52,
    "lenet5": 2,
}


def _trace(module, shape=(2, 32, 32, 3)):
    """Shapes of ((features, logits), variables) after initializing on a batch."""

    def init(images):
        key = jax.random.key(0)
        return module.init_with_output(
            key, images, train=True, mutable=["params", "batch_stats", "intermediates"]
        )

    return jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _draw(module, shape, seed=0):
    """Variables drawn by NumPy: initializing compiles for seconds."""
    rng = np.random.default_rng(seed)

    def leaf(path, spec):
        if path[-1].key in ("bias", "mean"):
            return jnp.asarray(0.1 * rng.normal(size=spec.shape), spec.dtype)
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, spec.shape), spec.dtype)
        scale = np.sqrt(2 / max(1, spec.size // spec.shape[-1]))
        return jnp.asarray(scale * rng.normal(size=spec.shape), spec.dtype)

    _, variables = _trace(module, shape)
    variables = {k: v for k, v in variables.items() if k != "intermediates"}
    return jax.tree_util.tree_map_with_path(leaf, variables)


def _images(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def test_the_tables_cover_every_model():
    assert set(models.NAMES) == set(PARAMETERS) == set(FEATURES)


@pytest.mark.parametrize("name", models.NAMES)
def test_contract_at_32x32_in_bfloat16(name):
    calls = []

    def convolution(*args, **kwargs):
        calls.append(args)
        return lax.conv_general_dilated(*args, **kwargs)

    module = models.create(
        name, num_classes=10, dtype=jnp.bfloat16, convolution=convolution
    )
    (features, logits), variables = _trace(module)

    assert features.shape == (2, FEATURES[name])
    assert logits.shape == (2, 10)
    assert features.dtype == logits.dtype == jnp.float32
    assert _size(variables["params"]) == PARAMETERS[name]
    assert len(calls) == CONVOLUTIONS.get(name, 0), "not every convolution was replaced"

    kept = [variables["params"], variables.get("batch_stats", {})]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype(jnp.float32)}
    inner = jax.tree.leaves(variables.get("intermediates", {}))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in inner)
    assert bool(inner) == (name != "linear")


SIZES = [
    *((name, (1, 8, 8, 1)) for name in models.NAMES if name != "lenet5"),
    *((name, (1, 28, 28, 1)) for name in ("resnet10", "vgg11", "vit", "lenet5")),
    *((name, (1, 224, 224, 3)) for name in models.NAMES),
    ("resnet10", (1, 24, 40, 3)),
    ("vit", (1, 24, 40, 3)),
]


@pytest.mark.parametrize(("name", "shape"), SIZES)
def test_other_sizes_and_gray_images(name, shape):
    (features, logits), variables = _trace(models.create(name, num_classes=7), shape)
    wide = np.prod(shape[1:]) if name == "linear" else FEATURES[name]
    assert features.shape == (1, wide)
    assert logits.shape == (1, 7)
    assert min(leaf.size for leaf in jax.tree.leaves(variables)) > 0, "an empty map"


def test_vit_equals_the_published_size_at_224():
    module = models.create("vit", num_classes=1000)
    _, variables = _trace(module, (1, 224, 224, 3))
    assert _size(variables["params"]) == 5_717_416
    assert variables["intermediates"]["stem"][0].shape == (1, 1 + 14 * 14, 192)


@pytest.mark.parametrize(("size", "tokens"), [(8, 4), (64, 256), (96, 144), (128, 256)])
def test_vit_patches_fit_the_images(size, tokens):
    module = models.create("vit", num_classes=2, width=8)
    _, variables = _trace(module, (1, size, size, 3))
    assert variables["params"]["position"].shape == (1, 1 + tokens, 8)


def test_vit_patches_are_squares_of_the_image():
    images = np.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    patches = vit._patches(images)
    assert patches.shape == (2, 6, 48)
    # Row by row: the last patch of the first row is the upper right one.
    np.testing.assert_array_equal(patches[:, 2], images[:, :4, 8:].reshape(2, -1))
    np.testing.assert_array_equal(patches[:, 3], images[:, 4:, :4].reshape(2, -1))


def test_width_scales_the_network():
    module = models.create("resnet18", num_classes=10, width=16)
    (features, _), variables = _trace(module)
    assert features.shape == (2, 128)
    assert 16 < PARAMETERS["resnet18"] / _size(variables["params"]) * 1.01 < 16.3


def test_stages_have_stable_names_and_halve_the_map():
    _, variables = _trace(models.create("resnet18", num_classes=10))
    stages = variables["intermediates"]
    assert {name: value[0].shape[1:] for name, value in stages.items()} == {
        "stem": (32, 32, 64),
        "stage1": (32, 32, 64),
        "stage2": (16, 16, 128),
        "stage3": (8, 8, 256),
        "stage4": (4, 4, 512),
    }


SMALL = [
    ResNet(3, stage_sizes=(1, 1), bottleneck=True, width=4),
    VGG(3, width=4),
    DenseNet(3, stage_sizes=(1, 2), width=4),
    WideResNet(3, depth=10, width=4),
    MobileNetV2(3, width=8),
    VisionTransformer(3, depth=2, width=16),
    LeNet5(3, width=3),
    MLP(3, layers=3, width=16),
    Linear(3),
]


@pytest.mark.parametrize("module", SMALL, ids=lambda module: type(module).__name__)
def test_evaluation_treats_each_image_alone(module, monkeypatch):
    # Fewer blocks to compile, of both kinds.
    monkeypatch.setattr(mobilenet, "_STAGES", ((1, 16, 1, 1), (6, 24, 2, 2)))
    size = 16 if isinstance(module, LeNet5) else 8
    images = _images((4, size, size, 3))
    variables = _draw(module, images.shape)
    apply = jax.jit(functools.partial(module.apply, train=False))
    features, logits = apply(variables, images)
    assert np.isfinite(features).all()
    assert np.ptp(logits, axis=0).min() > 1e-5, "the images make no difference"
    order = np.array([2, 0, 3, 1])
    others = images.at[1].set(0.5)[order]
    kept = order != 1
    np.testing.assert_allclose(
        apply(variables, others)[1][kept], logits[order][kept], rtol=1e-4, atol=1e-5
    )


def test_training_updates_the_running_statistics():
    module = ResNet(3, stage_sizes=(), width=4)
    images = _images((8, 8, 8, 3))
    variables = _draw(module, images.shape)
    kernel = variables["params"]["stem_conv"]["kernel"]
    apply = jax.jit(
        functools.partial(module.apply, train=True, mutable=["batch_stats"])
    )
    (trained, _), updated = apply(variables, images)

    x = lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    old = variables["batch_stats"]["stem_norm"]
    new = updated["batch_stats"]["stem_norm"]
    for name, value in {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}.items():
        expected = 0.9 * old[name] + 0.1 * value
        np.testing.assert_allclose(new[name], expected, rtol=1e-4)
        assert np.abs(new[name] - old[name]).max() > 1e-3

    features, _ = module.apply(variables, images, train=False)
    assert np.abs(features - trained).max() > 1e-2


def test_batch_statistics_are_global_under_shard_map():
    images, labels = _images((16, 8, 8, 3)), jnp.arange(16) % 3
    # Devices see different brightness, so that statistics of one alone would differ.
    images = images * jnp.linspace(0.2, 1, 16)[:, None, None, None]
    plain = ResNet(3, stage_sizes=(), width=4)
    module = ResNet(3, stage_sizes=(), width=4, axis_name="data")
    # Initializing needs no mapped axis.
    variables = _draw(module, images.shape)

    def step(module, variables, images, labels):
        def loss(params):
            (_, logits), state = module.apply(
                {**variables, "params": params}, images, train=True, mutable=True
            )
            picked = jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1)
            return -picked.mean(), (logits, state["batch_stats"])

        grads, (logits, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return grads, logits, stats

    def local(variables, images, labels):
        grads, logits, stats = step(module, variables, images, labels)
        return lax.pmean(grads, "data"), logits, stats

    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 8
    data, whole = jax.P("data"), jax.P()
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, data, data),
        out_specs=(whole, data, whole),
        check_vma=False,
    )
    expected = jax.jit(functools.partial(step, plain))(variables, images, labels)
    shared = jax.jit(sharded)(variables, images, labels)
    for one, eight in zip(
        jax.tree.leaves(expected), jax.tree.leaves(shared), strict=True
    ):
        np.testing.assert_allclose(eight, one, rtol=2e-4, atol=2e-5)


def test_residual_block_equals_pytorch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    module = ResNet(3, stage_sizes=(1, 1), width=4)
    images = _images((4, 9, 9, 3))
    variables = _draw(module, images.shape)

    def tensor(array):
        return torch.from_numpy(np.array(array))

    def conv(scope, name, x, strides=1):
        kernel = tensor(scope[name]["kernel"]).permute(3, 2, 0, 1)
        return functional.conv2d(
            x, kernel, stride=strides, padding=kernel.shape[-1] // 2
        )

    def norm(scope, name, x):
        scale, bias = tensor(scope[name]["scale"]), tensor(scope[name]["bias"])
        return functional.batch_norm(x, None, None, scale, bias, True, eps=1e-5)

    params = variables["params"]
    x = tensor(images).permute(0, 3, 1, 2)
    x = norm(params, "stem_norm", conv(params, "stem_conv", x)).relu()
    for name, strides in (("stage1_block1", 1), ("stage2_block1", 2)):
        block = params[name]
        y = norm(block, "BatchNorm_0", conv(block, "Conv_0", x, strides)).relu()
        y = norm(block, "BatchNorm_1", conv(block, "Conv_1", y))
        if strides > 1:
            x = norm(block, "shortcut_norm", conv(block, "shortcut", x, strides))
        x = (x + y).relu()
    apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    (features, _), _ = jax.jit(apply)(variables, images)
    np.testing.assert_allclose(features, x.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_modules_are_hashable_and_equal():
    first, second = (models.create("resnet18", num_classes=10) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != models.create("resnet18", num_classes=10, width=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "resnet81"},
            r"'resnet81'; did you mean 'resnet18'.*Allowed: .*linear",
        ),
        ({"name": "zzz"}, "'zzz'; allowed: resnet18"),
        ({"name": "vgg11", "num_classes": 1}, "at least 2, given 1"),
        ({"name": "vgg11", "width": 0}, "at least 1, given 0"),
        ({"name": "vgg11", "width": -4}, "at least 1, given -4"),
        ({"name": "linear", "width": 8}, "'linear' has no width, given 8"),
    ],
)
def test_create_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        models.create(**{"num_classes": 10, **options})


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (models.create("lenet5", num_classes=2), (1, 8, 8, 3), "16x16; given 8x8"),
        (models.create("vit", num_classes=2), (1, 30, 30, 3), "cut 30x30"),
        (models.create("vit", num_classes=2, width=200), (1, 8, 8, 3), "width 200"),
        (models.create("mlp2", num_classes=2), (8, 8, 3), r"shape \(8, 8, 3\)"),
        (WideResNet(10, depth=27), (1, 32, 32, 3), "given 27"),
        (models.create("densenet121", num_classes=2), (1, 7, 9, 3), "8x8; given 7x9"),
        (DenseNet(2, stage_sizes=(1, 1)), (1, 1, 1, 3), "2x2; given 1x1"),
    ],
)
def test_networks_refuse_what_they_cannot_take(module, shape, message):
    with pytest.raises(ValueError, match=message):
        _trace(module, shape)


def test_integer_images_are_refused():
    module = models.create("linear", num_classes=2)
    with pytest.raises(ValueError, match="given uint8 of shape"):
        module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8), train=False)
