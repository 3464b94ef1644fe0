"""The families of any-depth detectors, as torch modules."""
