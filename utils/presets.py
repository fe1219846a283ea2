"""Sets of defaults of the pre-training, by the data that they are for."""

from typing import Any

# Other defaults for other data; a flag on the command line still wins. How the numbers were found:
# docs/training.md.
PRESETS: dict[str, dict[str, Any]] = {
    "seco": {},
    "small_images": {
        "data_mode": "moco",
        "crop_size": 48,
        "color_jitter": [0.4, 0.4, 0.4, 0.0],
        "grayscale_prob": 0.1,
        "blur_prob": 0.0,
        "rotate": True,
        "batch_size": 128,
        "num_negatives": 4096,
        "encoder_momentum": 0.99,
        "softmax_temperature": 0.2,
        "learning_rate": 0.06,
        "lr_schedule": "cosine",
        "warmup_epochs": 1.0,
        "max_epochs": 30,
    },
}
