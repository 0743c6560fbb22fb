"""Zooming Slow-Mo, x4 space and x2 time (CVPR 2020, arXiv 2002.11616), trained as published.

    python -m stvsr_jax.main --config configs/zooming_slowmo.py --config.data.path=FOLDER
    python -m stvsr_jax.main --config configs/zooming_slowmo.py:quick      # minutes on two cores

As published: windows of 7 frames (Vimeo-90k septuplets), frames 1, 3, 5, 7 reduced x4 as input, crops of 32
pixels, batch 16, flips, transpose and time reversal, Adam (0.9, 0.99), 4e-4 in cosine cycles of 150k steps
with full restarts, 600k steps, Charbonnier loss (the paper's batch is 24: `--config.data.batch_size=24`).
Differences, and how to have it as published:

    the loss is the mean, not the sum; with Adam only epsilon and the log differ      loss.reduction=sum
    an average of the parameters is scored and used for inference                     optimizer.ema_decay=0
    a run that diverges goes back with half the learning rate                         train.max_rollbacks=0

Beyond the paper: `--config.data.degrade=video` trains for blurred, noisy and compressed input.
Expected score of the published weights: 26.38 dB / 0.7977 on Vid4 (protocol zsm).
"""

from ml_collections import ConfigDict

VARIANTS = ("", "quick")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the recipe, or with 'quick' the same code made small."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {VARIANTS}")
    config = ConfigDict(
        {
            "model": {
                "name": "zooming_slowmo",
                "features": 64,
                "front_blocks": 5,
                "back_blocks": 40,
                "groups": 8,
                "remat": False,
            },
            "dtype": "float32",
            "data": {
                "path": "pip",
                "strict": False,
                "cache_dir": "",
                "cache_gb": 0.0,
                "cut_threshold": 10.0,
                "recipe": {
                    "name": "zooming_slowmo",
                    "window": 7,
                    "scale": 4,
                    "lr_crop": 32,
                    "hr_reduce": 1,
                    "time_stride": 1,
                },
                "degrade": "",
                "batch_size": 16,
                "num_workers": 0,
                "split": "time",
                "validation_fraction": 0.1,
                "validation_windows": 16,
                "validation_crop": 32,
            },
            "optimizer": {
                "learning_rate": 4e-4,
                "final_learning_rate": 1e-7,
                "cycle_steps": 150_000,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 0.0,
                "offset_rate": 1.0,
                "ema_decay": 0.999,
            },
            "loss": {"name": "charbonnier", "reduction": "mean"},
            "train": {
                "num_steps": 600_000,
                "micro_batches": 1,
                "log_every": 100,
                "eval_every": 5_000,
                "checkpoint_every": 5_000,
                "keep_checkpoints": 3,
                "keep_every": 50_000,
                "num_panels": 2,
                "max_skipped_steps": 100,
                "max_rollbacks": 3,
                "rollback_rate": 0.5,
                "concurrent_kernels": False,
            },
            "mesh": {"fsdp": 1},
            "seed": 0,
            "init_from": "",
        }
    )
    if variant == "quick":
        config.model.update({"features": 16, "front_blocks": 1, "back_blocks": 2, "groups": 2})
        config.data.recipe.update({"window": 5, "lr_crop": 16})
        config.data.update({"batch_size": 4, "validation_windows": 6})
        config.optimizer.update({"learning_rate": 2e-3, "cycle_steps": 300, "ema_decay": 0.0})
        config.train.update({"num_steps": 300, "log_every": 20, "eval_every": 100, "checkpoint_every": 100})
    return config
