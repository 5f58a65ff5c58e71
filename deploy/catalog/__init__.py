"""Vendor facts as data files with one typed loader: `load()`."""

from deploy.catalog.load import CatalogueError, load
from deploy.catalog.models import Catalogue

__all__ = ["Catalogue", "CatalogueError", "load"]
