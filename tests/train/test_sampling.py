"""Every example is dealt once, met in every pass, and gathered back in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import sampling


def _deal(size: int, num_shards: int) -> sampling.Shards:
    # The first channel of an image is its number, so batches can be traced back.
    images = np.arange(size, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), np.uint8
    )
    return sampling.deal(images, np.arange(size) % 3, num_shards)


@pytest.mark.parametrize(("size", "num_shards"), [(12, 1), (12, 4), (13, 4), (7, 3)])
def test_collect_undoes_deal(size, num_shards):
    dealt = _deal(size, num_shards)
    assert int(dealt.count.sum()) == size
    back = sampling.collect(dealt.images, size)
    np.testing.assert_array_equal(back[:, 0, 0, 0], np.arange(size))


@pytest.mark.parametrize(("size", "num_shards", "batch"), [(12, 1, 5), (23, 4, 8)])
def test_a_pass_meets_every_example_and_a_batch_none_twice(size, num_shards, batch):
    dealt = _deal(size, num_shards)
    order = sampling.shuffled(jax.random.key(0), dealt)
    steps = sampling.steps_per_pass(size, num_shards, batch)
    seen: list[int] = []
    for step in range(steps):
        taken = sampling.take(dealt, order, step, batch // num_shards)
        numbers = np.rint(np.asarray(taken.images)[..., 0, 0, 0] * 255).astype(int)
        assert len(set(numbers.ravel())) == batch, f"step {step} repeats an example"
        np.testing.assert_array_equal(taken.labels, numbers % 3)
        seen += numbers.ravel().tolist()
    assert set(seen) == set(range(size))


@pytest.mark.parametrize(("size", "shared"), [(12, True), (13, False)])
def test_images_are_dealt_without_a_copy_if_all_shards_have_as_many(size, shared):
    images = np.random.default_rng(0).integers(0, 256, (size, 2, 2, 1), np.uint8)
    dealt = sampling.deal(images, np.arange(size), 4)
    assert np.shares_memory(dealt.images, images) == shared
    for shard in range(4):
        own = images[shard::4]
        np.testing.assert_array_equal(dealt.images[shard, : len(own)], own)


def test_order_depends_on_the_shard_and_not_on_its_neighbors():
    dealt = _deal(24, 4)
    key = jax.random.key(3)
    whole = np.asarray(sampling.shuffled(key, dealt))
    alone = jax.tree.map(lambda leaf: leaf[2:3], dealt)
    np.testing.assert_array_equal(sampling.shuffled(key, alone)[0], whole[2])
    assert not np.array_equal(whole[0], whole[1])
    other = np.asarray(sampling.shuffled(jax.random.key(4), dealt))
    assert not np.array_equal(whole, other)


def test_padding_is_never_taken():
    dealt = _deal(13, 4)  # three shards hold a row of padding
    order = np.asarray(sampling.shuffled(jax.random.key(0), dealt))
    for shard in range(4):
        rows = order[shard][: dealt.count[shard]]
        assert set(rows) == set(range(int(dealt.count[shard])))


@pytest.mark.parametrize(("size", "shards"), [(21, 4), (24, 4), (7, 1)])
def test_a_pass_meets_every_example_exactly_once(size, shards):
    data = _deal(size, shards)
    met = np.zeros(size, int)
    for position in range(sampling.steps_per_pass(size, shards, 2 * shards)):
        batch = sampling.take_in_order(data, position, 2)
        assert batch.images.shape == (shards, 2, 2, 2, 1)
        numbers = np.rint(255 * np.asarray(batch.images[..., 0, 0, 0])).astype(int)
        np.add.at(met, numbers[np.asarray(batch.fresh)], 1)
    np.testing.assert_array_equal(met, 1)


def test_rows_are_stored_where_chosen():
    data = _deal(21, 4)
    array = jnp.full((4, 6, 3), -1.0)
    batch = sampling.take_in_order(data, 2, 2)
    # The last batch wraps around in the shards that hold five examples.
    np.testing.assert_array_equal(batch.fresh, [[1, 1], [1, 0], [1, 0], [1, 0]])
    values = jnp.arange(24.0).reshape(8, 3)
    after = sampling.store(array, batch, batch.fresh, values)
    np.testing.assert_array_equal(after[:, 4], values.reshape(4, 2, 3)[:, 0])
    np.testing.assert_array_equal(after[0, 5], values[1])
    changed = np.asarray(after != -1).any(-1)
    want = np.zeros((4, 6), bool)
    want[:, 4] = True
    want[0, 5] = True
    np.testing.assert_array_equal(changed, want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 2, 2, 1), np.float32)}, "uint8 .*, got float32"),
        ({"images": np.zeros((6, 2, 2), np.uint8)}, r"\(6, 2, 2\)"),
        ({"labels": np.arange(5)}, r"labels .* shape \(6,\), .* got int64 \(5,\)"),
        ({"labels": np.arange(7)}, r"labels .* got int64 \(7,\)"),
        ({"labels": np.zeros(6)}, "labels must be integers .* float64"),
        ({"selected": np.ones(5, bool)}, r"selected .* shape \(6,\), .* \(5,\)"),
        ({"selected": np.ones(6)}, "selected must be bool .* float64"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, message):
    arrays = {
        "images": np.zeros((6, 2, 2, 1), np.uint8),
        "labels": np.arange(6),
        "selected": np.ones(6, bool),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        sampling.deal(
            arrays["images"], arrays["labels"], 2, selected=arrays["selected"]
        )


def test_bad_sizes_are_refused():
    fewer = "3 images cannot be dealt to 4 shards; set num_shards to at most 3"
    for call in (
        lambda: _deal(3, 4),
        lambda: sampling.clip_batch_size(128, 3, 4),
        lambda: sampling.steps_per_pass(3, 4, 4),
    ):
        with pytest.raises(ValueError, match=fewer):
            call()
    with pytest.raises(
        ValueError,
        match=r"a batch of 16 images .* has 13 images; set batch_size to at most 12",
    ):
        sampling.steps_per_pass(13, 4, 16)
    for num_shards in (3, 7, 200):
        with pytest.raises(ValueError, match=f"128 images .* over {num_shards} shards"):
            sampling.steps_per_pass(5000, num_shards, 128)


@pytest.mark.parametrize(
    ("batch_size", "size", "num_shards", "clipped"),
    [(128, 1000, 4, 128), (128, 90, 4, 88), (128, 90, 1, 90), (128, 4, 4, 4)],
)
def test_batches_are_clipped_to_what_the_data_fill(
    batch_size, size, num_shards, clipped
):
    assert sampling.clip_batch_size(batch_size, size, num_shards) == clipped
    assert sampling.steps_per_pass(size, num_shards, clipped) >= 1
    with pytest.raises(ValueError, match="set batch_size"):
        sampling.steps_per_pass(size, num_shards, size + num_shards)
