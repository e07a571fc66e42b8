"""Migrations of the sighting store, oldest first."""
