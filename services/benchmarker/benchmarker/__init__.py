"""Measures models: control keeps the runs, workers measure.

Read in this order: runs (what is stored, and a run's states), upkeep (what is looked
after), control (what is asked), schedule and search (what is measured when), worker (who measures),
statistics, memory, analysis, cost, plots (what the figures mean).
"""
