"""One module a command: its options, its call, what it prints."""
