"""A small Hub: the Hugging Face Hub's protocol over tiny real models made on the spot.

Read in this order: catalogue (which models), families and awkward (how they are made),
making (once, into a folder), repository (what the Hub knows of one), app (the protocol),
faults (how it fails on request), testing (start one from Python).
"""
