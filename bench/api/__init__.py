"""The public face in Python: runs, boards and models as objects that notebooks show."""
