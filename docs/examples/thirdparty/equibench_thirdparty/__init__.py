"""Other people's layers as models of equibench."""
