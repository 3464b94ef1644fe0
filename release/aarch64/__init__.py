"""The deployment half and the C++ library on aarch64, as on a Jetson, without one.

``make aarch64``: Debian's and PyPI's packages for aarch64 are unpacked into a folder and run in
user-mode emulation (QEMU); nothing is installed, and no rights are needed. It shows that numbers
are right, and nothing of speed.
"""
