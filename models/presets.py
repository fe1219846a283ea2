"""Presets of main_pretrain.py, each value with its source; a flag on the command line wins.

A preset says what is learned, from which bands and for how long, never on which machine. Sources:

- Original: ServiceNow/seasonal-contrast at 8285173, the code of SeCo (arXiv 2103.16607).
- Checkpoint: the released seco_resnet18_100k.ckpt, as read in the original's issue 11.
- CACo: README of utkarshmall13/CACo, which trains on its smaller set by the original's code.
- SSL4Eco: arXiv 2504.18256 and PlekhanovaElena/ssl4eco at c8077d1, which trains SeCo-Eco.
- Trials: docs/training.md, "Small images". MoCo: facebookresearch/moco, README and colab notebook.
"""

from typing import Any

from utils.stored_values import NDVI

_SECO: dict[str, Any] = {
    # Original, main_pretrain.py.
    "data_mode": "seco",
    "max_epochs": 200,
    "schedule": [120, 160],  # x0.1 each, by pl_bolts' MocoLRScheduler without cosine
    "lr_schedule": "step",
    # Original, models/moco2_module.py.
    "base_encoder": "resnet18",
    "emb_dim": 128,
    "num_negatives": 16_384,
    "encoder_momentum": 0.999,
    "softmax_temperature": 0.07,
    "learning_rate": 0.03,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "batch_size": 256,
    # Original, datasets/seco_dataset.py.
    "bands": ["B4", "B3", "B2"],
    "crop_size": 224,
    "crop_scale": [0.2, 1.0],
    "color_jitter": [0.4, 0.4, 0.4, 0.1],
    "jitter_prob": 0.8,
    "grayscale_prob": 0.2,
    "blur_prob": 0.5,
    "rotate": False,
}
DEFAULT = "seco_1m"  # the defaults of the original are those of its README's run on SeCo-1M
BEFORE = {"seco": DEFAULT}  # names in runs before December 2026, which can be resumed
PRESETS: dict[str, dict[str, Any]] = {
    "seco_1m": _SECO,
    "seco_100k": _SECO
    | {
        "max_epochs": 1000,  # Checkpoint
        "schedule": [600, 800],  # CACo; 60 % and 80 % as in the original
    },
    # The run of the paper with everything that is corrected here as the original does it.
    "paper": _SECO | {"protocol": "paper"},
    "seco_eco": _SECO
    | {
        # SSL4Eco, section A-2, and --bands B9 of pretraining/README.md.
        "bands": ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", NDVI],
        "base_encoder": "resnet50",  # section 3.2
        "max_epochs": 100,  # section 3.2; the rate stays, as the schedule is that of 200 epochs
        "num_negatives": 65_536,  # section A-2
        "softmax_temperature": 0.2,  # --moco-t 0.2 of pretraining/README.md; the paper names none
        "color_jitter": [0.4, 0.4, 0.0, 0.0],  # brightness, contrast: pretrain_seco_3heads.py
    },
    "small_images": _SECO
    | {
        "data_mode": "moco",
        # Trials: the best row; only the rate was varied alone, and 0.05 the best that was tried.
        "learning_rate": 0.06,
        "color_jitter": [0.4, 0.4, 0.4, 0.0],
        "grayscale_prob": 0.1,
        # Trials: the same in all of them.
        "softmax_temperature": 0.2,  # MoCo-v2: --moco-t 0.2 --cos in the README of MoCo
        "lr_schedule": "cosine",
        "num_negatives": 4096,  # MoCo's demo on CIFAR-10, also the momentum
        "encoder_momentum": 0.99,
        "batch_size": 128,
        "warmup_epochs": 1.0,  # 3 % of the epochs
        "max_epochs": 30,  # about an hour on two cores
        # Trials: by reasoning.
        "crop_size": 48,
        "blur_prob": 0.0,
        "rotate": True,
    },
}
