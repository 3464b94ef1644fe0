"""What goes to standard output: one document for machines, tables that fit for people."""
