"""Brings bundles to Redis and Triton. Its commands say what is theirs, and nothing of Merlin's."""

from contract.quiet import quieten

quieten()
