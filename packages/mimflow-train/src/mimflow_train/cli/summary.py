"""The table that ends a run."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from mimflow_train.config import TrainConfig

if TYPE_CHECKING:
    from mimflow_train.evaluation.reconstruction import Reconstruction
    from mimflow_train.evaluation.summary import Evaluation

__all__ = ["summary"]


def summary(
    scores: "Evaluation",
    before: "Reconstruction | None",
    config: TrainConfig,
    run_dir: Path,
    seconds: float,
) -> str:
    """Return the table that ends a run."""
    n = scores.num_images
    rows = [
        (
            "NLL per dimension",
            f"train {scores.nll_train:.4f}   held out {scores.nll_held_out:.4f}"
            f"   floor {scores.nll_floor:.4f} (the latent noise alone)",
        ),
        (
            "masked reconstruction",
            f"{scores.psnr:.2f} dB PSNR on held-out images"
            + (f" ({before.psnr:.2f} before the decoder phase)" if before else ""),
        ),
        ("whole reconstruction", f"{scores.psnr_whole:.2f} dB with no patch hidden"),
        (f"fd_efflite0 at N = {n}", "against held-out real images; smaller is better"),
        ("  real images", f"{scores.fd_floor:8.1f}   the floor at this N"),
        (
            "  decoded posterior",
            f"{scores.fd_posterior:8.1f}   what a perfect prior would reach"
            + (f" ({before.fd_posterior:.1f} before the decoder phase)" if before else ""),
        ),
        ("  decoded whole images", f"{scores.fd_whole:8.1f}   with no patch hidden"),
        ("  decoded flow", f"{scores.fd_flow:8.1f}   the samples"),
        ("  decoded Gaussian", f"{scores.fd_gaussian:8.1f}   no prior"),
        ("gap closed by the flow", _gap(scores)),
    ]
    if scores.class_accuracy is not None:
        seen = (
            f"{scores.class_accuracy:8.3f}   of {scores.class_num_samples}; chance "
            f"{scores.class_chance:.3f}, decoded posterior "
            f"{scores.class_accuracy_posterior:.3f}, real {scores.class_accuracy_real:.3f}"
        )
        rows.append(("class seen in samples", seen))
    files = [
        ("samples", run_dir / "samples.png"),
        ("reconstructions", run_dir / "reconstructions.png"),
        ("report", run_dir / "report.html"),
        ("curves", f"tensorboard --logdir {quote(str(run_dir / 'tensorboard'))}"),
        ("more images", f"mimflow-sample {quote(str(run_dir))} --num 12 --out grid.png"),
    ]
    minutes = f"{config.scale} on {config.data.source}: finished in {seconds / 60:.1f} min"
    lines = [minutes, *(f"  {name:<24} {text}" for name, text in [*rows, *files])]
    return "\n".join(lines) + "\n"


def _gap(scores: "Evaluation") -> str:
    """Return the share of what a prior can do that the flow does, or why there is none."""
    if scores.gap_closed is None:
        return f"{'none':>8}   Gaussian latents decode as well as posterior ones"
    if scores.fd_flow < scores.fd_posterior:
        return f"{'all':>8}   samples score better than what a perfect prior would reach"
    return f"{scores.gap_closed:8.2f}   (Gaussian - flow) / (Gaussian - posterior)"
