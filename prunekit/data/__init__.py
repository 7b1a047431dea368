"""Data: scenes (synthetic streets), real (readers of real sets), transforms, crops (class-balanced ones).

Nothing is downloaded here.
"""
