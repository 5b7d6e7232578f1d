"""Whether information between compressed images tells who learns from compressed ones.

    miue measure --config experiments/robust_information.py:runs/robust-mi --data DATA \
        --data.per-class 500 --estimators.critic-seeds 1 \
        --workdir runs/robust-mi-measured

The result is results/robust_information.json. It takes one to two minutes of a core for
a victim. The argument, `runs/robust-mi` when left out, is the directory of the runs
that are measured. Both images of a pair are measured as the victim's defense prepares
them; clean victims are measured on the pairs of `mi_ue/robust`.

DATA is CIFAR-10: `cifar10` (TFDS), an image folder, the original binary archive or a
.npz file of its arrays. Protect 500 images of each class with each generator:

    for generator in error_minimizing/interleaved mi_ue/interleaved mi_ue/robust
    do
        miue protect $DATA --data.per-class 500 --generator $generator \
            --generator.model resnet10 --generator.epochs 15 \
            --workdir runs/robust-mi/$(echo $generator | tr / _)
    done

Then train victims on half of the images of each class behind each defense, so that the
other half can be measured:

    for generator in clean error_minimizing_interleaved mi_ue_interleaved mi_ue_robust
    do
        train=runs/robust-mi/$generator/protected.npz
        [ $generator = clean ] && train=$DATA
        for defense in none jpeg-10 jpeg-50 grayscale
        do
            miue evaluate $train $DATA --train.per-class 250 --defense $defense \
                --victim.model resnet10 --victim.width 16 --victim.epochs 20 \
                --victim.batch-size 32 --victim.learning-rate 0.05 --seeds 0 \
                --evaluate-every 20 --checkpoint-every 20 \
                --workdir runs/robust-mi/$generator-$defense
        done
    done
"""

from miue_jax.workflows.measure.config import MeasureConfig, MeasuredRun

GENERATORS = (
    "clean",
    "error_minimizing_interleaved",
    "mi_ue_interleaved",
    "mi_ue_robust",
)
DEFENSES = ("none", "jpeg-10", "jpeg-50", "grayscale")


def get_config(runs: str = "runs/robust-mi") -> MeasureConfig:
    """Returns the measurement of the runs in a directory."""
    return MeasureConfig(
        data="cifar10",
        victims={
            f"{generator}-{defense}": MeasuredRun(
                run=f"{runs}/{generator}-{defense}", generator=generator, depth=10
            )
            for generator in GENERATORS
            for defense in DEFENSES
        },
        protected=f"{runs}/mi_ue_robust/protected.npz",
        defended=True,
        layers=("features",),
    )
