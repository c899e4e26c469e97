"""A photograph to recover: any image file, or one of scikit-learn's own, cut square and reduced."""

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sop_jax.errors import UserError

# What Pillow raises for a file that is no image, a broken one, or one too large to be honest.
NOT_AN_IMAGE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
)
EMBEDDED = ("china", "flower")  # sklearn.datasets.load_sample_image


def load(name: str, size: int) -> np.ndarray:
    """The image called `name`, an embedded one or a file, as float32 [size, size, 3] in [0, 1].

    The largest square about the centre is cut out and reduced by averaging over areas.

    Raises:
      UserError: no such file, not a whole image, or one smaller than `size`.
    """
    picture = _open(name)
    edge = min(picture.size)
    if edge < size:
        raise UserError(
            f"config.size={size} is larger than the image {name!r}, "
            f"{picture.width}x{picture.height} pixels; lower config.size or take a larger image"
        )
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    box = left, top, left + edge, top + edge
    square = picture.resize((size, size), Image.Resampling.BOX, box)
    return np.asarray(square, np.float32) / 255


def _open(name: str) -> Image.Image:
    if name in EMBEDDED:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    if not pathlib.Path(name).is_file():
        raise UserError(
            f"config.image: there is no file {name!r}; give the path of an image file or one of "
            f"{', '.join(EMBEDDED)}"
        )
    try:
        with Image.open(name) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")  # upright, as a camera was held
    except NOT_AN_IMAGE as error:
        raise UserError(
            f"config.image: {name!r} cannot be read as an image ({error}); give a whole image file "
            "that Pillow reads, such as PNG or JPEG"
        ) from error
