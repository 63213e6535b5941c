"""A run on disk: its folder, its checkpoints, and how it starts and goes on."""
