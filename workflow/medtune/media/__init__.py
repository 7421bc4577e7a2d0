"""Volumes and films to videos and images, and back to frames."""
