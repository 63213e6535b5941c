"""The command ``rece``: LightningCLI, the verbs that need no trainer, flags and messages."""
