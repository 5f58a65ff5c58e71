"""One short file per part of the stack: what is not as wanted, and what makes it so. Pure."""
