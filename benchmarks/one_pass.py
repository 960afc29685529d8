"""Five metrics against one, and against five runs of one: Inception, CPU seconds.

Run with `uv run python benchmarks/one_pass.py`; prints the table of one_pass.md. The weights are
random, which changes no time.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genmetrics import choose_protocol, evaluate, get_extractor, open_images

N = 150
FIVE = ("fid", "sfid", "is", "pr", "kid")


class RandomInception(FeatureExtractorInceptionV3):
    """torch-fidelity's network with random numbers in place of loaded ones."""

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Draw weights that let activations neither vanish nor explode."""
        torch.manual_seed(0)
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save({}, folder / "none.pth")
        network = RandomInception(
            "random", ["2048"], feature_extractor_weights_path=folder / "none.pth"
        )
        torch.save(network.state_dict(), folder / "random.pth")
        extractor = get_extractor("inception", weights=folder / "random.pth")
        images = np.random.default_rng(0).integers(0, 256, (2 * N, 64, 64, 3), dtype=np.uint8)
        np.savez(folder / "a.npz", images[:N])
        np.savez(folder / "b.npz", images[N:])
        sets = open_images(folder / "a.npz"), open_images(folder / "b.npz")

        def seconds(*metrics: str) -> float:
            protocol = choose_protocol("adm", None, metrics=metrics, kid_subset_size=100)
            began = time.process_time()
            evaluate(*sets, extractor=extractor, protocol=protocol)
            return time.process_time() - began

        seconds("is")  # warms up
        alone = {metric: seconds(metric) for metric in FIVE}
        together = seconds(*FIVE)
    print("| computed | CPU s | ratio to the pass for fid |\n|---|--:|--:|")
    rows = [(metric, alone[metric]) for metric in FIVE]
    rows += [("all five, one pass", together), ("all five, five passes", sum(alone.values()))]
    for label, value in rows:
        print(f"| {label} | {value:.1f} | {value / alone['fid']:.2f} |")


if __name__ == "__main__":
    main()
