"""Tasks on chest films: eight kinds of question about one image, in one training run."""
