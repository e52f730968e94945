"""Records, the readers of the official formats, and prepared data sets. Imports no torch."""
