"""Augmentation: what is drawn for an image, as matrices for its pixels and objects and a few steps on finished pixels.

Points are continuous: pixel (row i, column j) covers [j, j + 1) x [i, i + 1). Boxes and outlines go through the same
matrix as the pixels, so they move together by construction.
"""
