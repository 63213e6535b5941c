"""Hundreds of settings, ranked without pictures; the best of them measured with."""
