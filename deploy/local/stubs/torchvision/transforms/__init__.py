"""Holds what mosaicml-streaming imports from here."""
