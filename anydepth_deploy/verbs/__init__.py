"""What commands do, as functions of Python: each returns what ``--json`` prints."""
