"""What runs inside the boxes of python programs; imports the standard library only."""
