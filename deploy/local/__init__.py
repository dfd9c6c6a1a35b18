"""The whole system on one machine, without root and without Docker: `python -m local run`."""
