"""Which switch of the robust loop brings attacks down, and at what cost."""
