"""Frames of reference and boxes, and every conversion between them."""
