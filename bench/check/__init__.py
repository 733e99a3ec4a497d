"""May a model enter the registry, and may figures of this machine be trusted? Both are checked in other processes."""
