"""The images of a run, wherever its configuration says that they are."""

from pathlib import Path

from mimflow_train.config import TrainConfig
from mimflow_train.data.emoji import emoji_images
from mimflow_train.data.folder import folder_images
from mimflow_train.data.images import LabelledImages
from mimflow_train.data.layout import read_layout
from mimflow_train.errors import DataError
from mimflow_train.telemetry.console import say

__all__ = ["load_data"]


def load_data(config: TrainConfig, run_dir: Path | None = None) -> LabelledImages:
    """Return the images of a run; each that cannot be decoded is named when it is met.

    Args:
        config: The run.
        run_dir: Receives the list of undecodable images, of all workers, and those that are on it
            are not named again; None to keep none.

    Raises:
        DataError: If they are not, by their names and sizes, those that the configuration is of.
    """
    size = config.model.encoder.image_size
    if config.data.source == "emoji":
        return emoji_images(size)
    bad_list = None if run_dir is None else run_dir / "bad_images.txt"
    layout = read_layout(Path(config.data.source))  # the command has said what is left out
    if config.data.fingerprint not in ("", layout.fingerprint):
        raise DataError(
            f"Expected in {config.data.source} the images that the run began with; files were "
            "added, removed, renamed or written anew, or this machine has others. Put them back, "
            "or begin a new --out; mimflow-eval takes others by --data."
        )
    return folder_images(layout, size, bad_list=bad_list, warn=say)
