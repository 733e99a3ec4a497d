"""The proof of the claims about PDO-eConv: computed afresh, and shown."""
