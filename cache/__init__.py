"""A chunked Zarr store for features that are computed once and read many times."""
