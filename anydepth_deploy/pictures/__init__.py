"""Pictures: read, resized, drawn upon, chosen, and generated ones of shapes."""
