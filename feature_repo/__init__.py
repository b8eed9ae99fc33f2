"""Brings features to Redis with Feast. Its command says what is its own, and nothing of Feast's."""

from contract.quiet import quieten

quieten()
