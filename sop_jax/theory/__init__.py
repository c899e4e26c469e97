"""The theory behind SOP: formulas as pure functions, and the figures that theory tasks draw."""
