"""``equibench doctor``: what a machine must do right before its figures can be trusted."""
