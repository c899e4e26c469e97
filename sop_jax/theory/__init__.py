"""The theory behind SOP: formulas as pure functions, and the figures that the theory tasks draw of
them.
"""
