"""Tiny random pipelines of every family: diffusers' classes, a few thousand parameters each, real tokenizers."""
