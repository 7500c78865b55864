"""A checkpoint of any layout, opened in one process for samples and for its loss on a dataset."""
