"""Which figures tell without a picture how an edit erases, and what the rule that goes by them costs."""
