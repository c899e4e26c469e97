"""What must hold of images, labels, ids and class names before the first step.

A run takes hours, and its output files come last: what they cannot hold is refused here.
"""

import numpy as np

from sop_jax.errors import UserError

CHANNELS = (1, 3)  # of images that networks, AutoAugment and the report's pictures know
# Longest text that Python's csv module reads back, so the longest that label_issues.csv may hold.
MAX_CHARACTERS = 131_072
_SURROGATES = range(0xD800, 0xE000)  # code points that are no characters: UTF-8 has none of them
_LAST_CODE_POINT = 0x10FFFF


def check_labels(
    labels: np.ndarray, num_classes: int, what: str = "labels", ids: np.ndarray | None = None
) -> np.ndarray:
    """Labels [N] as int32.

    Raises:
        UserError: not whole numbers [N], or one outside [0, K): its row is named, by `ids` [N]
            where they are given. `what` names the labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise UserError(
            f"{what}: expected whole numbers of shape [N], got {labels.dtype} {list(labels.shape)}"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        row = bad[0] if ids is None else ids[bad[0]]
        raise UserError(
            f"{what}: label {labels[bad[0]]} of row id {row} is outside [0, {num_classes - 1}] "
            f"({len(bad)} such rows): mend the labels, or set data.num_classes to their number of "
            "classes"
        )
    return labels.astype(np.int32)


def check_several_classes(labels: np.ndarray, what: str) -> None:
    """Raises UserError where the labels [N], N > 0, are all the same."""
    if (labels == labels[0]).all():
        raise UserError(
            f"{what}: all {len(labels)} labels are {labels[0]}; a classifier takes examples of at "
            "least 2 classes"
        )


def check_image_shape(shape: tuple[int, int, int], what: str) -> None:
    """Raises UserError where images [H, W, C] hold nothing, or have other channels than 1 or 3."""
    height, width, channels = shape
    if height == 0 or width == 0:
        raise UserError(f"{what}: holds {height}x{width} images, which have no pixels")
    if channels in CHANNELS:
        return
    if height in CHANNELS:
        raise UserError(
            f"{what}: shape [N, {height}, {width}, {channels}] looks like channels first, "
            "[N, C, H, W], but must be [N, H, W, C]: numpy.moveaxis(images, 1, -1)"
        )
    raise UserError(
        f"{what}: images of {height}x{width} have {channels} channels; 1 (grey) or 3 (red, green, "
        "blue) are known"
    )


def check_class_names(names: tuple[str, ...], what: str) -> None:
    """Raises UserError where class names are fewer than 2, not unique, or too long for a CSV."""
    if len(names) < 2:
        named = f"{len(names)} class{f', {names[0]!r:.40}' if names else 'es'}"
        raise UserError(f"{what}: names {named}; a classifier takes at least 2")
    first_of = {}
    for c, name in enumerate(names):
        check_length(name, f"{what}, class {c}")
        if name in first_of:
            raise UserError(
                f"{what}: classes {first_of[name]} and {c} are both named {name!r:.80}; give each "
                "its own name"
            )
        first_of[name] = c


def check_length(text: str, what: str) -> None:
    """Raises UserError where a text is longer than a field of a CSV file may be."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"{what}: a text of {len(text):,} characters, {text[:20]!r}...: at most "
            f"{MAX_CHARACTERS:,} can be read back from a CSV file"
        )


def check_texts(texts: np.ndarray, what: str) -> None:
    """Raises UserError where an array [N] of NumPy's 'U' type holds what is no text (UTF-8)."""
    if texts.size == 0 or texts.dtype.itemsize == 0:
        return
    code_points = np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder)
    codes = np.ascontiguousarray(texts).view(code_points).reshape(len(texts), -1)
    is_surrogate = (codes >= _SURROGATES.start) & (codes < _SURROGATES.stop)
    bad = np.argwhere(is_surrogate | (codes > _LAST_CODE_POINT))
    if len(bad):
        row, place = bad[0].tolist()
        raise UserError(
            f"{what}: entry {row} is no text: its character {place + 1} is {codes[row, place]:#x}, "
            "which UTF-8 does not have; save it again as plain strings"
        )


def check_unique(sorted_ids: np.ndarray, what: str) -> None:
    """Raises UserError where an id occurs twice among ids [N] in ascending order."""
    twice = np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])
    if len(twice):
        raise UserError(
            f"{what}: id {sorted_ids[twice[0]]} occurs more than once ({len(twice)} duplicates in "
            "all)"
        )


def check_num_classes(num_classes: int, num_rows: int, name: str) -> None:
    """Raises UserError where data.num_classes is below 2 or above the number of training rows."""
    if num_classes < 2:
        raise UserError(f"data.num_classes={num_classes}; a classifier takes at least 2 classes")
    if num_classes > num_rows:
        raise UserError(
            f"data.num_classes={num_classes}: more classes than the {num_rows} training rows of "
            f"{name}; lower it, or leave it unset"
        )
