"""Stands in for transformers, which mosaicml-streaming imports for data sets of texts."""
