"""Cases to samples, to the Arrow data set and to the forms that other trainers load."""
