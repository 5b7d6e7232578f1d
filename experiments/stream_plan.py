r"""What a run on data larger than memory takes: bytes, passes and hours.

    python experiments/stream_plan.py --rate 1000

The bytes are those that `miue protect --stream` allocates, without what the network's
layers take; "in_memory_a_device" is what a run without --stream keeps there instead.
The hours are those of the rate that is given, in images a second that one device
perturbs and trains on; no rate is assumed. Measure it on the machine in question:

    python experiments/streaming.py --kind folder --images 1281 --side 224 \
        --model resnet18 --width None --batch-size 128 --storage int8 --steps 20

and divide the batch by the seconds of a step. Reading is left out: it is hidden as long
as the host decodes as many images a second as its devices take. The result is printed.
It takes a second.
"""

import dataclasses
import json
import math
import pathlib
import sys
from typing import Any

from miue_jax import _command_line
from miue_jax._checks import check_choice, check_number
from miue_jax.generators.perturbation_store import STORAGES
from miue_jax.train import windows

PROG = "stream_plan.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Plans a run.

    Attributes:
      images: how many there are; ImageNet-1k's by default.
      side: of an image, in pixels.
      batch_size: global.
      epochs: of the interleaved schedule, a pass over the data each.
      storage: of the perturbations.
      devices: numbers of devices.
      devices_a_host: that a host has at most.
      rate: images a second of one device; None for no hours.
      parameters: of the surrogate; ResNet-18's by default.
      json: file for the results.
    """

    images: int = 1_281_167
    side: int = 224
    batch_size: int = 256
    epochs: int = 15
    storage: str = "int8"
    devices: tuple[int, ...] = (1, 8, 64)
    devices_a_host: int = 8
    rate: float | None = None
    parameters: int = 11_689_512
    json: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check_choice("storage", self.storage, STORAGES)
        names = ("images", "side", "batch_size", "epochs", "devices_a_host")
        for name in (*names, "parameters"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for number in self.devices:
            check_number("devices", number, "> 0", whole=True)
        if self.rate is not None:
            check_number("rate", self.rate, "> 0")


def run(options: Options) -> dict[str, Any]:
    """Computes the plan.

    Args:
      options: the options.

    Returns:
      The settings, the bytes on disk, and by number of devices the rest.

    Raises:
      ValueError: if a batch does not split over the devices.
    """
    image = 3 * options.side**2
    code = image * {"float32": 4, "bfloat16": 2, "int8": 1}[options.storage]
    plans: dict[str, Any] = {}
    for devices in options.devices:
        if options.batch_size % devices:
            raise ValueError(
                f"batch_size is {options.batch_size}; allowed with {devices} devices: "
                f"multiples of {devices}"
            )
        share = options.batch_size // devices
        on_host = min(devices, options.devices_a_host)
        # As `windows.width_of` chooses them where memory does not set less.
        rows = windows.LARGEST // ((image + code) * on_host) // share * share
        rows = max(share, rows)
        # Labels and orders, and parameters, gradients and momentum in float32.
        always = 13 * options.images + 12 * options.parameters
        plan: dict[str, float] = {
            # Two windows of images; of codes those that were, are and will be used.
            "bytes_a_device": rows * (2 * image + 3 * code) + always,
            "in_memory_a_device": options.images * (image + code) // devices + always,
            # Two windows, and labels, orders and maps of the rows.
            "bytes_a_host": on_host * rows * 2 * (image + code) + 60 * options.images,
            "steps": options.epochs * math.ceil(options.images / options.batch_size),
            "passes": options.epochs,
        }
        if options.rate is not None:
            seconds = options.epochs * options.images / (options.rate * devices)
            plan["hours"] = round(seconds / 3600, 2)
        plans[str(devices)] = plan
    return {
        "settings": {
            k: v for k, v in dataclasses.asdict(options).items() if k != "json"
        },
        "images_decoded": options.images * image,
        # Each row lies there up to three times, see `train.row_store`.
        "rows_on_disk": [options.images * code, 3 * options.images * code],
        "delta_on_disk": 4 * options.images * image,
        "artifact_on_disk": options.images * image,
        "devices": plans,
    }


def report(measured: dict[str, Any]) -> None:
    """Prints the plan.

    Args:
      measured: from `run`.
    """
    sizes = {k: measured[k] for k in measured if k.endswith(("_disk", "_decoded"))}
    print(json.dumps(sizes))
    for devices, plan in measured["devices"].items():
        print(f"{devices} devices: {json.dumps(plan)}")


def main() -> None:
    """Plans, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG, report)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
