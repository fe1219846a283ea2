"""Distribution of the views; imports neither torch nor NumPy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentConfig:
    """Distribution of the views; the defaults are those of MoCo-v2 and SeCo.

    Attributes:
        crop_size: Height and width of a view in pixels.
        crop_scale: Range of the crop's share of the patch.
        color_jitter: Strength of brightness, contrast, saturation (factors in 1 - s .. 1 + s) and
            hue (turns in -s .. s, at most 0.5).
        jitter_prob: Probability of colour jitter.
        grayscale_prob: Probability of a grey picture.
        blur_prob: Probability of blur.
        blur_sigma: Range of its standard deviation in pixels.
        flip_prob: Probability of a horizontal flip.
        rotate: Also flip vertically and transpose, each with ``flip_prob``: all eight positions of
            a square, for imagery without an up.
        crop_first: Crop before colour and blur, as MoCo does, rather than after, as SeCo does.
        round_to_uint8: Round after each operation, as the 8-bit pictures of the original did.
    """

    crop_size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_prob: float = 0.5
    rotate: bool = False
    crop_first: bool = False
    round_to_uint8: bool = False
