"""Embedded data for trying fastfid without any of your own: image sets, and ways to spoil them."""
