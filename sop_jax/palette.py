"""Colours of the series in figures: Okabe and Ito's, darkened, which colour-blind readers tell
apart on white.
"""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#a8518a", "#b27a00")
MUTED = "#59636e"  # guides and reference lines
