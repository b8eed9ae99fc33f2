"""Stands in for torchvision, which mosaicml-streaming imports for data sets of pictures."""
