"""Found state, and the verdict."""
