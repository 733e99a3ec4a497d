"""What every room uses and what knows no run: files, schemas, text, the hardware of this machine."""
