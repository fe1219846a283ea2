"""Pictures with targets, on their way from a data set to a probe."""

from dataclasses import dataclass

from torch import Tensor

from utils.input_spec import InputTransform


@dataclass(frozen=True)
class ProbePictures:
    """A small data set in memory. Shapes: N train and M validation pictures, C classes.

    Attributes:
        transform: Normalises the pictures for the encoder that they were read for.
        train: Pictures, uint8, shape (N, bands, H, W).
        train_targets: Classes, int64, shape (N,), or labels of 0 and 1, shape (N, C).
        val: Pictures, uint8, shape (M, bands, H, W).
        val_targets: As those of train.
        num_classes: C.
    """

    transform: InputTransform
    train: Tensor
    train_targets: Tensor
    val: Tensor
    val_targets: Tensor
    num_classes: int

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture may have several labels."""
        return self.train_targets.ndim == 2
