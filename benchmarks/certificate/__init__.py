"""Does the residual that a certificate bounds say what a detector sees?"""
