"""What goes and what stays where 1, 10, 50 and 100 objects are erased at once."""
