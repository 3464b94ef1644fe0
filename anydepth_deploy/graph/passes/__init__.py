"""What is done to a graph, one pass a file; none needs torch."""
