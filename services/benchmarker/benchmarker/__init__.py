"""Measurement of models: control stores and schedules runs, and workers measure them.

Read control in this order: runs (rows and states), admission (which are accepted), turns (which
is next), postings and queue (messages), deliveries (a run on a worker), outbox (metrics); then the
handlers: benchmarks, verifications, reports; then upkeep. Read the worker from worker/__main__,
session and trial. What figures mean is in schedule, search, statistics, memory, outcome, doubts,
analysis, cost and plots.
"""
