"""A detector in one call: pictures of any kind in, results in their own pixels out."""
