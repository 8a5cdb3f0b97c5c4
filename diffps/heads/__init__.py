"""The trainable parts. Shapes are in the signatures, which the tests check at run time.

Axes: B batch, R RoIs of all images, n and m boxes of one image, C channels, H x W and h x w grids, K peaks of a map,
D numbers of an embedding, L identities, Q places of the queue, A anchors per position.
"""
