"""Small ResNets of three depths on clean, noisy, EM and MI-UE data of one source.

The argument is the directory of the runs, `runs/mi` when left out:

    python experiments/measure.py --config experiments/configs/measure.py:runs/mi \
        --config.data.name_or_path=$DATA --config.data.per_class=500 \
        --workdir runs/mi-measured

The runs that it measures, for CIFAR-10 in DATA (TFDS name, archive or .npz of arrays).
Protect 500 images of each class with each method:

    for method in random_noise/uniform error_minimizing/interleaved mi_ue/interleaved
    do
        settings=
        case $method in random_noise/*) ;; *)
            settings="--config.method.model=resnet10 --config.method.epochs=15" ;; esac
        python experiments/generate.py \
            --config experiments/configs/generate.py:$method $settings \
            --config.data.name_or_path=$DATA --config.data.per_class=500 \
            --workdir runs/mi/${method%/*}
    done

Then train victims on half of the images of each class, so that the other half can be
measured; of clean images, half of the same 500 (the same seed makes a smaller draw a
part of the larger one):

    for method in clean random_noise error_minimizing mi_ue
    do
        train=runs/mi/$method/protected.npz
        [ $method = clean ] && train=$DATA
        for model in resnet10 resnet18 resnet34
        do
            python experiments/evaluate.py \
                --config experiments/configs/evaluate.py:quick \
                --config.train.name_or_path=$train --config.train.per_class=250 \
                --config.test.name_or_path=$DATA \
                --config.victim.model=$model --config.victim.width=16 \
                --config.victim.epochs=20 --config.seeds='(0,)' \
                --config.evaluate_every=10 --config.checkpoint_every=10 \
                --workdir runs/mi/$method-$model
        done
    done

For victims that lie elsewhere, or others, copy this file and name them in `victims`.
Clean victims are measured on the pairs of MI-UE. The committed results were measured
with `--config.estimators.critic_seeds=1`, in one to four minutes of a busy core for
each victim. Expect InfoNCE of 6.1 nats and KSG within classes of 3.0 for victims that
learned, 2 and 0.5 to 1 for those that the perturbation ruined.
"""

from ml_collections import ConfigDict, config_dict

METHODS = ("clean", "random_noise", "error_minimizing", "mi_ue")
MODELS = {"resnet10": 10, "resnet18": 18, "resnet34": 34}


def get_config(argument: str = "runs/mi") -> ConfigDict:
    """Returns the configuration of a measurement.

    Args:
      argument: the directory of the runs.

    Returns:
      The configuration.
    """
    victims = {}
    for method in METHODS:
        for model, depth in MODELS.items():
            victim = ConfigDict(
                {
                    # A directory that evaluate.py left.
                    "run": f"{argument}/{method}-{model}",
                    # The pairs to measure on; None for what it was trained on.
                    "protected": config_dict.placeholder(str),
                    "method": method,
                    "depth": depth,
                }
            )
            if method == "clean":
                victim.protected = f"{argument}/mi_ue/protected.npz"
            victims[f"{method}-{model}"] = victim
    return ConfigDict(
        {
            # The clean images: the source of every protected data set.
            "data": {
                "name_or_path": "shapes",
                "split": "train",
                "per_class": config_dict.placeholder(int),
                "seed": 0,
                "data_dir": config_dict.placeholder(str),
            },
            "victims": victims,
            # None for the inner layers of the network and its features.
            "layers": config_dict.placeholder(tuple),
            # Most pairs of each class.
            "per_class": 250,
            # On the scale of features of unit norm.
            "noise_variances": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
            "confidence": 0.95,
            "estimators": {
                # Principal components of the class-conditional Gaussian.
                "components": 16,
                # Directions of nearest neighbors within classes, and how many.
                "ksg_components": 8,
                "neighbors": 5,
                "critic_steps": 1000,
                "critic_seeds": 3,
                "num_slices": 128,
                # Within classes, for the p-value; 0 for none.
                "permutations": 99,
            },
            "seed": 0,
        }
    )
