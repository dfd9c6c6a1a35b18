"""Mixed load with random faults of services and servers, and checks of every answer."""
