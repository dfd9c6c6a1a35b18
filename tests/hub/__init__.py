"""A small Hugging Face Hub for tests: its protocol over tiny real models, built on demand.

Read in this order: model, catalogue and misfits (which models there are), families, media,
sounds, weightless and awkward (their makers), making (made once, into a folder), repository (a
repository as git sees it), stock (the repositories at hand), app (the protocol), faults (failures
on request), testing (start a Hub from Python).
"""
