"""Which reconstruction belongs to which image: by name, or by place in the order."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

from genmetrics.errors import BadInput, one_of, some
from genmetrics.images.sources import ImageSource, PictureSet

Pairing = Literal["name", "index"]

_LISTED = 10


class PairingError(BadInput):
    """Two sets of images do not belong together one to one."""


class Pairs(NamedTuple):
    """Two sets of images in step: number ``i`` of one belongs to number ``i`` of the other.

    Args:
        real: The originals.
        recon: Their reconstructions.
        names: How messages call each pair.
    """

    real: ImageSource
    recon: ImageSource
    names: list[str]


def pair_images(real: ImageSource, recon: ImageSource, pairing: Pairing = "name") -> Pairs:
    """Bring two sets of images in step.

    Args:
        real: The originals.
        recon: Their reconstructions.
        pairing: ``name`` pairs files of one relative path, extension aside, in the order of the
            originals: ``cat/3.png`` with ``cat/3.jpg``. ``index`` pairs the first with the first.

    Raises:
        UsageError: If there is no such pairing.
        PairingError: If an image has no partner, or more than one, or if pictures were skipped
            where places count; lists up to 10 names.
    """
    one_of(get_args(Pairing), pairing=pairing)
    if pairing == "index":
        _require_none_skipped(real, recon)
        if len(real) != len(recon):
            raise PairingError(
                f"Expected as many reconstructions as images; got {len(real)} in {real.path} and "
                f"{len(recon)} in {recon.path}. Remove what has no partner."
            )
        return Pairs(real, recon, [str(index) for index in range(len(real))])
    names, others = _names_of(real), _names_of(recon)
    _require_same(set(names), set(others), (real.path, recon.path))
    place = {name: index for index, name in enumerate(others)}
    return Pairs(real, recon.select([place[name] for name in names]), names)


def usual_pairing(real: ImageSource, recon: ImageSource) -> Pairing:
    """Return ``name`` where images of both sets have names, else ``index``."""
    named = isinstance(real, PictureSet) and isinstance(recon, PictureSet)
    return "name" if named else "index"


def _require_none_skipped(*sources: ImageSource) -> None:
    """Raise where a picture was left out, since all that follow it have moved up a place."""
    for source in sources:
        skipped = list(getattr(source, "skipped", ()))
        if skipped:
            raise PairingError(
                f"Expected every picture where partners have one place in the order; got "
                f"{len(skipped)} skipped in {source.path}: {some(skipped, _LISTED)}. Pair by name "
                "with --pairing name, or remove these and their partners."
            )


def _names_of(source: ImageSource) -> list[str]:
    if not isinstance(source, PictureSet):
        raise PairingError(
            f"Expected folders or zips, since the images of {source.path} have no names. "
            "Pair them with --pairing index."
        )
    names = [PurePosixPath(name).with_suffix("").as_posix() for name in source.names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise PairingError(
            f"Expected one image per name in {source.path}; got several for "
            f"{some(twice, _LISTED)}. Keep one of each."
        )
    return names


def _require_same(real: set[str], recon: set[str], paths: tuple[Path, Path]) -> None:
    missing = [
        f"{len(names)} without a partner in {path}: {some(sorted(names), _LISTED)}"
        for names, path in ((real - recon, paths[1]), (recon - real, paths[0]))
        if names
    ]
    if missing:
        raise PairingError(
            f"Expected a partner of the same name for each image; got {'; '.join(missing)}. "
            "Remove what has no partner, or pair by order with --pairing index."
        )
