"""Lays perturbations on pictures and writes them, several at once."""

import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import pictures
from miue_jax.data import picture_kinds
from miue_jax.pictures import Entry
from miue_jax.protector import Protector, full_size
from miue_jax.train import loop
from miue_jax.workflows.folder import record, threads
from miue_jax.workflows.folder.codes import Codes
from miue_jax.workflows.folder.fit_protector import tiny
from miue_jax.workflows.folder.plan import reason_of
from miue_jax.workflows.folder.record import Record, Written


def write(
    todo: Sequence[Entry],
    used: Protector,
    codes: Codes,
    output: pathlib.Path,
    kept: Record,
    *,
    radius: int,
    format: str | None,
    strip_location: bool,
    thorough: bool,
    progress: bool,
) -> list[tuple[str, str]]:
    """Writes pictures, and records each when it is begun and when it is written.

    Args:
      todo: the pictures.
      used: the protector.
      codes: of the classes.
      output: the folder to write.
      kept: the record.
      radius: largest change of a channel, in gray levels.
      format: see `miue_jax.pictures.write`, as for the next two.
      strip_location: whether to remove the place.
      thorough: whether to look longer for JPEG files that keep more of the change.
      progress: whether to show a progress bar.

    Returns:
      Names of pictures that could not be read or written, and why.

    Raises:
      Stopped: after a signal; what was begun is written then.
      OSError: naming the file, if one cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from PIL import Image
      >>> from miue_jax import pictures, protector
      >>> from miue_jax.workflows.folder import codes, record, writing
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     root = pathlib.Path(folder)
      ...     (root / "in").mkdir()
      ...     (root / "out").mkdir()
      ...     Image.new("RGB", (64, 48), "teal").save(root / "in" / "sea.png")
      ...     kept = record.Record(root / "kept.jsonl")
      ...     writing.write(
      ...         pictures.scan(root / "in").pictures,
      ...         *(made, codes.Codes({}, (), None), root / "out", kept),
      ...         radius=8,
      ...         format=None,
      ...         strip_location=False,
      ...         thorough=False,
      ...         progress=False,
      ...     )
      ...     kept.entries["sea.png"].audit["max_change"] <= 8
      []
      True
    """
    delta = jax.jit(lambda made, images, codes: made.delta(images, codes))
    assign = jax.jit(lambda made, images: made.assign(images))
    taken = {entry.target for entry in (*todo, *kept.entries.values())}

    def one(entry: Entry) -> tuple[str, str] | None:
        source = record.stamp(entry.path)
        try:
            picture = pictures.read(entry.path, kind=entry.header.format)
        except ValueError as error:
            return entry.name, reason_of(error, entry.path)
        pixels = pictures.upright(picture.pixels, picture.orientation)
        pixels = np.ascontiguousarray(pixels)
        label = codes.class_of(entry)
        if label is not None:
            code = codes.known[label]
        elif codes.outside is not None:
            code, label = codes.outside, "group 1"
        else:
            thumb = full_size.thumbnail(pixels, used.settings.size)
            seen = tiny(full_size.square(thumb, 0.5))
            code = int(assign(used, seen[None])[0])
            label = f"group {code + 1}"
        wanted = full_size.lay(
            pixels,
            lambda images: delta(used, images, jnp.array([code], jnp.int32)),
            size=used.settings.size,
        )
        wanted = pictures.upright(wanted, picture.orientation, back=True)
        wanted = np.ascontiguousarray(wanted)
        begun = Written(entry.name, entry.target, None, None, label, None)
        notes = list(entry.notes)
        # Formats with loss cannot keep every budget, nor hold every size.
        for asked in (format, "png"):
            path = output / begun.target
            kept.add(begun)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                audit = pictures.write(
                    path,
                    picture,
                    wanted,
                    radius=radius,
                    format=asked,
                    strip_location=strip_location,
                    thorough=thorough,
                )
                break
            except ValueError as error:
                reason = reason_of(error, path)
                is_png = picture_kinds.of_suffix(path.suffix) == "PNG"
                if asked == "png" or is_png:
                    return entry.name, reason
                notes.append(reason.replace("write it as PNG", "written as PNG"))
                begun = begun._replace(target=_spare(begun.target, taken, output))
        else:
            raise AssertionError("unreachable")
        notes = list(dict.fromkeys((*notes, *audit.notes)))
        plain = {**audit._asdict(), "notes": notes}
        stamp = record.stamp(path)
        kept.add(begun._replace(source=source, result=stamp, audit=plain))
        return None

    failed = []
    with (
        loop.stop_signals() as received,
        loop.progress(len(todo), 0, label="protecting", quiet=not progress) as bar,
    ):
        for result in threads.unordered(one, todo, stop=received):
            bar.update()
            failed += [result] if result else []
        if received:
            loop.stop_now(received.pop())
    return failed


def _spare(target: str, taken: set[str], output: pathlib.Path) -> str:
    """A name for a picture that cannot be written in its format."""
    number, name = 1, f"{target}.png"
    while name in taken or os.path.lexists(output / name):
        number += 1
        name = f"{target}_{number}.png"
    return name
