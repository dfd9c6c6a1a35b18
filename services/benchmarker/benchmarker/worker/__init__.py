"""Runs measurements. Each model has fresh processes: one that fetches it, one that times it.

__main__ (wiring), session (one job), child (a process that is asked and answers),
fetch and measure (the two kinds of it), models (a model and its inputs),
timing (clocks), device (what the machine is and can do), neighbours and energy
(what else is to be known of a run), trial (a module that is run once), offline (without a network).
"""
