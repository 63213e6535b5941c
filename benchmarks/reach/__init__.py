"""What singular editors cost, one concept, several and styles; and the least that any such map can cost."""
