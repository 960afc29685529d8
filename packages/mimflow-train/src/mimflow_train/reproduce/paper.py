"""The numbers of the paper (arXiv 2606.26016): ImageNet at 256 px, Inception, up to 50,000 samples.

They stand beside ours in reports, never in place of them.
"""

from collections.abc import Mapping

__all__ = [
    "TABLE1",
    "TABLE2",
    "TABLE3",
    "TABLE4",
    "TABLE5_MASK",
    "TABLE5_SIGMA",
    "TABLE5_TARGET",
    "TABLE5_TOKENS",
    "TABLE8",
    "TABLE9",
    "TABLE10",
]

Numbers = Mapping[str, float | str]

_FIVE = ("rfid", "gfid", "is", "precision", "recall")


def _row(*values: float) -> Numbers:
    return dict(zip((*_FIVE, "accuracy"), values, strict=False))


TABLE1: Mapping[str, Numbers] = {
    "starflow": {"gfid": 50.22},
    "softplus removed": {"gfid": 48.24},
    "gated attention": {"gfid": 47.44},
    "end to end": {"gfid": 11.24},
    "starflow guided": {"gfid": 7.79, "sfid": 20.54},
    "softplus removed guided": {"gfid": 7.65, "sfid": 18.98},
    "gated attention guided": {"gfid": 7.45, "sfid": 18.64},
    "end to end guided": {"gfid": 5.99},
}
TABLE2: Mapping[str, Numbers] = {
    "sd-vae": {"parameters_m": 83.7, "gmac": 446.21},
    "maetok": {"parameters_m": 172.0, "gmac": 71.25},
}
TABLE3: Mapping[str, Numbers] = {
    "unguided": {"gfid": 3.64, "is": 158.6, "precision": 0.78, "recall": 0.60},
    "guided": {"gfid": 2.50, "is": 233.5, "precision": 0.82, "recall": 0.57},
}
TABLE4: Mapping[str, Numbers] = {
    "simflow": {"memory_gb": 52.3, "steps_per_s": 2.83, "sample_s": 0.020},
    "mimflow": {"memory_gb": 37.6, "steps_per_s": 3.11, "sample_s": 0.011},
}
TABLE5_MASK: Mapping[str, Numbers] = {
    "none": _row(23.5, 29.0, 65.5, 0.59, 0.56, 0.566),
    "0.2-0.4": _row(8.66, 24.47, 60.1, 0.59, 0.57, 0.542),
    "0.4-0.6": _row(3.40, 12.82, 88.6, 0.70, 0.66, 0.713),
    "0.6-0.8": _row(5.26, 15.92, 79.8, 0.65, 0.65, 0.659),
    "mix": _row(6.58, 26.98, 51.9, 0.58, 0.55, 0.457),
}
TABLE5_TARGET: Mapping[str, Numbers] = {
    "dino": _row(4.00, 12.89, 91.0, 0.70, 0.66),
    "dino hog": {"gfid": "collapsed"},
    "dino clip": _row(3.60, 12.46, 92.3, 0.70, 0.66),
    "clip hog": _row(4.18, 20.77, 56.0, 0.63, 0.59),
    "all": _row(3.64, 12.82, 88.6, 0.70, 0.66),
}
TABLE5_TOKENS: Mapping[str, Numbers] = {
    "64": _row(5.61, 12.78, 91.8, 0.71, 0.65),
    "128": _row(3.60, 12.46, 92.3, 0.70, 0.66),
    "192": _row(24.59, 30.42, 68.0, 0.57, 0.57),
}
TABLE5_SIGMA: Mapping[str, Numbers] = {
    "0.2": _row(3.93, 14.30, 81.5, 0.66, 0.66),
    "0.3": _row(3.40, 12.82, 88.6, 0.70, 0.66),
    "0.5": _row(6.95, 17.69, 75.6, 0.65, 0.62),
}
TABLE8: Mapping[str, Numbers] = {
    "baseline": _row(2.74, 11.24, 86.0, 0.68, 0.63),
    "tokens": _row(4.15, 19.52, 63.1, 0.52, 0.66),
    "auxiliary": _row(14.75, 18.71, 91.0, 0.65, 0.62),
    "masking": _row(3.81, 10.14, 105.2, 0.64, 0.66),
    "full": _row(1.47, 6.15, 130.0, 0.77, 0.71),
}
TABLE9: Mapping[str, Numbers] = {
    "1": _row(3.60, 12.46, 92.3, 0.70, 0.66),
    "5": _row(4.10, 13.33, 85.6, 0.69, 0.64),
    "10": _row(13.73, 26.19, 61.8, 0.46, 0.55),
}
TABLE10: Mapping[str, Numbers] = {
    "128": {"train_ms": 183.0, "sample_s": 1.60},
    "256": {"train_ms": 352.0, "sample_s": 3.64},
    "1024": {"train_ms": 1515.0, "sample_s": 25.3},
}
