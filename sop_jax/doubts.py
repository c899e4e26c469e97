"""When a verdict should not be trusted: sentences for the user, none where nothing is doubtful.

No true label is used.
"""

from collections.abc import Sequence

import numpy as np

DISAGREE = 0.25, 0.03  # estimates apart by more than a quarter of the larger, and by 3 points
UNDERFITS = 0.15  # held-out agreement lower than the flagged share explains, by so much
FEW = 30  # rows of a class
BEYOND_BELIEF = 0.5  # flagged share of a class that is also twice that of all


def warnings(
    label: np.ndarray,
    flagged: np.ndarray,
    rate: float,
    estimates: dict[str, float],
    informed: Sequence[str],
    held_out_accuracy: float | None,
    class_names: Sequence[str],
) -> tuple[str, ...]:
    """What speaks against the verdict.

    Args:
      label: int [n], the given labels. flagged: bool [n].
      rate: the estimated share of wrong labels. estimates: the same from each source.
      informed: the sources that have learnt something, and are asked.
      held_out_accuracy: on given labels, of networks that never saw them; None: not known.
      class_names: the K names.
    """
    found = []
    asked = [estimates[name] for name in informed]
    ignorant = [name for name in estimates if name not in informed]
    if not informed:
        found.append(
            "The network has learnt too little to judge labels: nothing is flagged, which does not "
            "mean that nothing is wrong. Train for more epochs."
        )
    elif ignorant:
        found.append(
            f"The {ignorant[0]} have learnt too little to be asked; the share of wrong labels "
            f"rests on the {informed[0]} alone."
        )
    low, high = min(asked, default=0.0), max(asked, default=0.0)
    if disagree(low, high):
        both = " and ".join(f"{_percent(value)} by {name}" for name, value in estimates.items())
        found.append(
            f"Two estimates of the share of wrong labels disagree: {both}. The larger is used. "
            "Either the network has memorised wrong labels (then train for fewer epochs), or one "
            "of the two sees the images badly: look through the head of the list before the rest."
        )
    if informed and underfits(held_out_accuracy, rate):
        found.append(
            f"The network underfits: on rows it was not trained on it agrees with "
            f"{_percent(held_out_accuracy)} of the given labels, where about {_percent(1 - rate)} "
            "would be expected if wrong labels were the only reason. Many flagged labels will be "
            "right ones of images it cannot read, so no suggestion is marked to be taken unseen."
        )
    counts = np.bincount(label, minlength=len(class_names))
    for k in np.flatnonzero(beyond_belief(label, flagged, len(class_names))):
        found.append(
            f"{_percent(flagged[label == k].mean())} of the labels {class_names[k]!r} are flagged, "
            "beyond belief: this class may look like another to the network, so none of its rows "
            "is marked to be relabelled unseen."
        )
    small = [name for name, count in zip(class_names, counts, strict=True) if 0 < count < FEW]
    if small:
        found.append(
            f"Fewer than {FEW} rows: class {', '.join(map(repr, small[:10]))}"
            f"{' and others' if len(small) > 10 else ''}. Verdicts on them rest on little."
        )
    return tuple(found)


def disagree(one: float, other: float) -> bool:
    """Whether two estimates of a share lie further apart than estimates of the same do."""
    return abs(one - other) > max(DISAGREE[0] * max(one, other), DISAGREE[1])


def beyond_belief(label: np.ndarray, flagged: np.ndarray, num_classes: int) -> np.ndarray:
    """Given classes of which more is flagged than anyone would get wrong, bool [num_classes].

    Args:
      label: int [n], the given labels. flagged: bool [n].
    """
    counts = np.bincount(label, minlength=num_classes)
    hits = np.bincount(label, weights=flagged, minlength=num_classes)
    return hits > max(BEYOND_BELIEF, 2 * flagged.mean()) * counts


def underfits(held_out_accuracy: float | None, rate: float) -> bool:
    """Whether held-out agreement with given labels is lower than wrong labels alone explain.

    Args:
      held_out_accuracy: None where it is not known: then False.
      rate: the estimated share of wrong labels.
    """
    return held_out_accuracy is not None and held_out_accuracy < 1 - rate - UNDERFITS


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
