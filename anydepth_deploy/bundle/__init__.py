"""The folder that an export makes: its files, what of them is run, and how."""
