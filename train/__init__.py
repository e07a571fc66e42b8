"""Recipes: what is fitted to data and shipped with a pack, one module per product."""
