"""What is released is tried as its users get it: built, and installed where nothing else is."""
