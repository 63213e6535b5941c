"""The families of denoisers, one a file: which text spaces they have, and which weights read each."""
