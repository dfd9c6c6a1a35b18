"""Mixed load while parts fail at random, and checks of all clients' answers."""
