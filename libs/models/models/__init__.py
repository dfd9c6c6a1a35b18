"""Domain library: tasks, the Hub's tags, model configs, sizes and dtypes.

The generator, the benchmarker and the module templates read it; it knows neither the bus nor
any service.
"""
