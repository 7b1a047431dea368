"""Data: scenes (synthetic streets), real (readers of real sets), transforms. Nothing is downloaded here."""
