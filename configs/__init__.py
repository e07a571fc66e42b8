"""Configuration: documented frozen dataclasses and the commented YAML presets that mirror them."""
