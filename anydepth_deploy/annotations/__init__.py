"""What annotation files say, held against pictures and networks, and which data a figure is of."""
