"""What Lightning's trainer is asked, told, and not asked: loaders, callbacks, the optimizer, how a fit ended."""
