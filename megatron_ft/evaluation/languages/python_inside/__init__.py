"""What runs inside the boxes of python programs; imports the standard library only."""

ORDER_BYTES, DESCRIPTORS = 2**16, 8
"""How long an order to a process is at most, and how many descriptors come with it."""
STANDARD = 3
"""The first of them: stdin, stdout and stderr."""
