"""Segmentation learnt from image labels alone."""
