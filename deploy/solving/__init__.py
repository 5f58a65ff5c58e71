"""Parts of the solver, all pure: what a host is, what a repository offers, what fits together."""
