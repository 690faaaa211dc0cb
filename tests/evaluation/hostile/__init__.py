"""Hostile programs: kinds of attack (`kinds.py`), each in every language that can try it, and what judges and watches them."""
