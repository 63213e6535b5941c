"""The project's version, read by the build and written into every file that the project makes."""

__version__ = "0.3.0"
