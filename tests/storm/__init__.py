"""Mixed load while parts fail at random, and a check of what every client was told."""
