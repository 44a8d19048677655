"""Attacks for robustkit that live outside it."""

from robustkit_attacks_zoo.inversion import Inversion

__all__ = ["Inversion"]
