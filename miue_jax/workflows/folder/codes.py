"""Codes of pictures: one for each class, the same in every run."""

import logging
import pathlib
from typing import NamedTuple

from miue_jax.pictures import Entry
from miue_jax.protector import Protector
from miue_jax.train import run_directory

_LOGGER = logging.getLogger("miue_jax")


class Codes(NamedTuple):
    """How pictures get codes: those of their classes; others are in clusters.

    Attributes:
      known: codes of classes by name.
      names: the classes of this scan, by their labels.
      outside: code of pictures outside all classes; None for those of their clusters.

    Example:
      >>> from miue_jax.workflows.folder import codes
      >>> codes.Codes({"cat": 0}, ("cat",), 31).known["cat"]
      0
    """

    known: dict[str, int]
    names: tuple[str, ...]
    outside: int | None

    def class_of(self, entry: Entry) -> str | None:
        """The class of a picture.

        Args:
          entry: the picture.

        Returns:
          Its name, or None.

        Example:
          >>> import pathlib
          >>> from miue_jax import pictures
          >>> from miue_jax.workflows.folder import codes
          >>> header = pictures.Header("PNG", 64, 48, False)
          >>> path = pathlib.Path("cat/a.png")
          >>> entry = pictures.Entry("cat/a.png", path, header, "cat/a.png", None, ())
          >>> codes.Codes({"cat": 0}, (), 31).class_of(entry)
          'cat'
        """
        if entry.label is not None and self.names:
            return self.names[entry.label]
        # Once there is a picture outside all folders, none has a label. The classes of
        # an earlier run stay.
        folders = entry.name.split("/")[:-1]
        return next((name for name in folders[:2] if name in self.known), None)


def assign(
    used: Protector, class_names: tuple[str, ...] | None, workdir: pathlib.Path
) -> Codes:
    """Gives codes to classes, which stay the same when others come later.

    Args:
      used: the protector; its classes come first.
      class_names: those of this scan, or None.
      workdir: where they are kept.

    Returns:
      The codes.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from miue_jax import protector
      >>> from miue_jax.workflows.folder import codes
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     codes.assign(made, ("cat", "dog"), pathlib.Path(folder)).known
      {'cat': 0, 'dog': 1}
    """
    file, number = workdir / "codes.json", used.settings.num_codes
    groups = len(used.clusters.centers)
    known = {}
    if file.exists():
        known = run_directory.read_json(file)
    elif class_names is not None:
        known = {name: code for code, name in enumerate(used.settings.class_names)}
    if class_names is not None:
        for name in class_names:
            # The first ones are those of clusters.
            known.setdefault(name, max(known.values(), default=groups - 1) + 1)
        run_directory.write_json(file, known)
    if groups + len(known) > number:
        _LOGGER.warning(
            "there are %s classes, and %s kinds of perturbation: some share one",
            *(groups + len(known), number),
        )
    codes = {name: code % number for name, code in known.items()}
    return Codes(codes, class_names or (), None if groups else number - 1)
