"""Calibration: the ranges that activations take, over pictures *and* depths, for INT8."""
