"""Reward terms shared by tasks."""
