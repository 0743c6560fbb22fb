"""VideoINR, any scale and any instant (CVPR 2022, arXiv 2206.04647), both stages as published in one run.

    python -m stvsr_jax.main --config configs/videoinr.py --config.data.path=FOLDER --config.data.recipe.hr_reduce=2
    python -m stvsr_jax.main --config configs/videoinr.py:quick      # minutes on two cores

As published: every window of 9 frames (Adobe240), its first and last as input, crops of 32 pixels, batch 24,
flips and transpose, Adam (0.9, 0.99), 1e-4 in cosine cycles of 150k steps with full restarts, Charbonnier loss.
Steps to 450k: x4, one random instant; 150k more: a scale in [2, 4] and one augmentation for each batch, three
instants. Differences, and how to have it as published:

    the loss is the mean, not the sum, as its authors advise for the second stage     loss.reduction=sum
    8 evenly spaced scales bound the compilations (at most 65 without)                data.recipe.num_scales=0
    reduced frames are rounded to 8 bits, as those of a file are                      data.recipe.quantize=False
    targets are whole frames; of Adobe240's 720p they are halved                      data.recipe.hr_reduce=2
    an average of the parameters is scored and used for inference                     optimizer.ema_decay=0
    a run that diverges goes back with half the learning rate                         train.max_rollbacks=0

Beyond the paper: `--config.data.degrade=video` trains for blurred, noisy and compressed input.
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = ("", "quick")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the recipe, or with 'quick' the same code made small."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {VARIANTS}")
    config = ConfigDict(
        {
            "model": {
                "name": "videoinr",
                "features": 64,
                "front_blocks": 5,
                "back_blocks": 40,
                "groups": 8,
                "hidden": (64, 64, 256),
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
                    "name": "videoinr",
                    "window": 9,
                    "scale": 4,
                    "lr_crop": 32,
                    "hr_reduce": 1,
                    "time_stride": 1,
                    "num_times": 1,
                    "stage2_step": config_dict.placeholder(int),
                    "stage2_scale": (2.0, 4.0),
                    "stage2_num_times": 3,
                    "stage2_augment_per_batch": True,
                    "num_scales": 8,
                    "reverse_time": False,
                    "quantize": True,
                },
                "degrade": "",
                "batch_size": 24,
                "num_workers": 0,
                "split": "time",
                "validation_fraction": 0.1,
                "validation_windows": 16,
                "validation_crop": 32,
            },
            "optimizer": {
                "learning_rate": 1e-4,
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
    config.data.recipe.stage2_step = 450_000
    if variant == "quick":
        config.model.update(
            {"features": 16, "front_blocks": 1, "back_blocks": 2, "groups": 2, "hidden": (32, 32, 64)}
        )
        config.data.recipe.update({"window": 3, "lr_crop": 16, "stage2_step": None})
        config.data.update({"batch_size": 4, "validation_windows": 6})
        config.optimizer.update({"learning_rate": 7e-4, "cycle_steps": 400, "ema_decay": 0.0})
        config.train.update({"num_steps": 400, "log_every": 20, "eval_every": 100, "checkpoint_every": 100})
    return config
