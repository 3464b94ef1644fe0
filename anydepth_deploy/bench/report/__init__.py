"""Tables of results, merged, compared, and beside what was published."""
