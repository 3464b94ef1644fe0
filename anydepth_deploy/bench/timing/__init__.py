"""When a request starts, how long it takes, and in what order depths have their turn."""
