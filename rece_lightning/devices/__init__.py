"""Several devices and processes: which part lies where, what each rank does, and what a trainer must be."""
