"""The parts of a run on one process and on two, and what they cost on more."""
