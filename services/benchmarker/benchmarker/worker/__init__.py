"""The worker, which measures models and runs modules in child processes.

Read in this order: __main__ (wiring and jobs), session (one job), child (the protocol with a child
process), fetch and measure (the two children of a measurement), models and diffusion (a model and
its inputs), timing (clocks), device (the machine and its limits), neighbours, energy and counting
(the circumstances of a figure), trial (a module that runs once), packages and samples (what a
trial needs).
"""
