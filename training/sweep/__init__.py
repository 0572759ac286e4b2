"""The learning-rate table of the Corona-Net talk."""
