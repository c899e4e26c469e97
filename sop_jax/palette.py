"""Colours of figures, on light and on dark pages.

Those of the series are Okabe and Ito's, darkened, which colour-blind readers tell apart on white.
"""

from typing import NamedTuple

SERIES = ("#0072b2", "#d55e00", "#009e73", "#a8518a", "#b27a00")
MUTED = "#59636e"  # guides and reference lines


class Theme(NamedTuple):
    """The colours of one figure."""

    ink: str  # text
    muted: str  # ticks, guides and reference lines
    grid: str
    ground: str
    series: tuple[str, ...]


LIGHT = Theme("#24292f", MUTED, "#e3e8ee", "#ffffff", SERIES)
DARK = Theme(
    "#e6edf3",
    "#9aa4af",
    "#2d343c",
    "#171b21",
    ("#4cacea", "#ff8a4c", "#2fc79b", "#e08fc4", "#f0b83a"),
)
