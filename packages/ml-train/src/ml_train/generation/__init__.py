"""A checkpoint of any layout in one process: samples from it, and its loss on a dataset."""
