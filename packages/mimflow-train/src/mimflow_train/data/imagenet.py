"""ImageNet as it is downloaded: the classes of the images in ``ILSVRC2012_img_val.tar``."""

import io
import tarfile
from pathlib import Path

from mimflow_train.errors import DataError

__all__ = ["DEVKIT", "TRAIN_TAR", "VAL_TAR", "validation_classes"]

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_SYNSETS = "data/meta.mat"


def validation_classes(devkit: Path) -> list[str]:
    """Return the class, such as ``n01440764``, of each validation image in the order of names.

    Args:
        devkit: The development kit of tasks 1 and 2, which is published with the images. Its
            numbers are not those of the sorted classes, so that its table is needed too.

    Raises:
        DataError: If a file is missing in it or it is damaged.
    """
    # Needed here alone, and slow to import; it ships no types.
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        with tarfile.open(devkit, mode="r:gz") as tar:
            files = {
                wanted: tar.extractfile(member)
                for member in tar
                for wanted in (_TRUTH, _SYNSETS)
                if member.isreg() and member.name.endswith(wanted)
            }
            numbers = _content(files[_TRUTH]).split()
            table = loadmat(io.BytesIO(_content(files[_SYNSETS])), squeeze_me=True)["synsets"]
        names = {
            int(number): str(name)
            for number, name in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)
        }
        return [names[int(number)] for number in numbers]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"Expected ImageNet's development kit with {_TRUTH} and {_SYNSETS}; {devkit} is none "
            f"({error!r}). Download it again, or remove it to go without the validation images."
        ) from error


def _content(file: object) -> bytes:
    assert isinstance(file, io.BufferedReader)
    return file.read()
