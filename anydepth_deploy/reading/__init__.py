"""What others wrote, opened and parsed with care: nothing here trusts a name or a text."""
