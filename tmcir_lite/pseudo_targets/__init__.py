"""Pseudo-target images: the diffusion editors that draw them, and how well they do what they are told."""
