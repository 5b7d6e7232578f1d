"""Small ResNets of three depths on clean, noisy, EM and MI-UE data of one source.

    miue measure --config experiments/measure_cifar10.py:runs/mi --data DATA \
        --data.per-class 500 --estimators.critic-seeds 1 --workdir runs/mi-measured

The result is results/measure.json: InfoNCE of 6.1 nats and KSG within classes of 3.0
for victims that learned, 2 and 0.5 to 1 for those that the perturbation ruined. It
takes one to four minutes of a busy core per victim. The argument, `runs/mi` when left
out, is the directory of the runs that are measured. Clean victims are measured on the
pairs of MI-UE.

DATA is CIFAR-10: `cifar10` (TFDS), the original binary archive or a .npz file of its
arrays. Protect 500 images of each class with each generator:

    for generator in random_noise/uniform error_minimizing/interleaved mi_ue/interleaved
    do
        settings=
        case $generator in random_noise/*) ;; *)
            settings="--generator.model resnet10 --generator.epochs 15" ;; esac
        miue protect $DATA --data.per-class 500 --generator $generator $settings \
            --workdir runs/mi/${generator%/*}
    done

Then train victims on half of the images of each class, so that the other half can be
measured; of clean images, half of the same 500 (with the same seed the smaller draw is
a part of the larger one):

    for generator in clean random_noise error_minimizing mi_ue
    do
        train=runs/mi/$generator/protected.npz
        [ $generator = clean ] && train=$DATA
        for model in resnet10 resnet18 resnet34
        do
            miue evaluate $train $DATA --train.per-class 250 \
                --victim.model $model --victim.width 16 --victim.epochs 20 \
                --seeds 0 --evaluate-every 10 --checkpoint-every 10 \
                --workdir runs/mi/$generator-$model
        done
    done
"""

from miue_jax.workflows.measure.config import MeasureConfig, MeasuredRun

GENERATORS = ("clean", "random_noise", "error_minimizing", "mi_ue")
MODELS = {"resnet10": 10, "resnet18": 18, "resnet34": 34}


def get_config(runs: str = "runs/mi") -> MeasureConfig:
    """Returns the measurement of the runs in a directory."""
    return MeasureConfig(
        data="cifar10",
        victims={
            f"{generator}-{model}": MeasuredRun(
                run=f"{runs}/{generator}-{model}", generator=generator, depth=depth
            )
            for generator in GENERATORS
            for model, depth in MODELS.items()
        },
        protected=f"{runs}/mi_ue/protected.npz",
    )
