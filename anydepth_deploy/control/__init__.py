"""Choosing the depth of a call, so that what calls take keeps to a target.

Nothing here knows a session, a clock or a device: costs go in, depths come out, and the same costs
give the same depths, here and in C++ (``cpp/src/control``).
"""
