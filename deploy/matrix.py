"""Every combination that the catalogue names, asked of the solver in one run."""

from deploy.described import catalogue_repository

__all__ = ["catalogue_repository"]
