"""Five metrics against one, each from one pass of Inception: CPU seconds.

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

N, ROUNDS = 60, 2
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
            protocol = choose_protocol("adm", None, metrics=metrics, kid_subset_size=50)
            began = time.process_time()
            evaluate(*sets, extractor=extractor, protocol=protocol)
            return time.process_time() - began

        seconds("is")  # warms up
        rounds = [(seconds("fid"), seconds(*FIVE)) for _ in range(ROUNDS)]
    print("| round | fid | five metrics | ratio |\n|--:|--:|--:|--:|")
    for number, (one, five) in enumerate(rounds, 1):
        print(f"| {number} | {one:.1f} s | {five:.1f} s | {five / one:.2f} |")


if __name__ == "__main__":
    main()
