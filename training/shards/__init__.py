"""Prepared training examples as MDS shards, for trainers that read them as a stream: `make shards`.

The training role cuts them (`cut`) and hands them through a pipe (`wire`) to the torch role, which writes
(`pack`) and reads (`read`) them, in a folder or at an address (`place`).
"""
