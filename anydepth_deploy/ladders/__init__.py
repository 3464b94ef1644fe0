"""Which depths are worth having: measured, written as a ladder, and looked into.

``costs`` predicts what every depth takes from a few that were timed, ``scores`` says how good what
a depth finds is, ``search`` looks for the front of both, ``measure`` puts it together, and
``diagnose`` asks whether the depths between the two that were trained are sound.
"""
