"""Boards for readers: tables in Markdown and LaTeX, BibTeX, plots, one static site."""
