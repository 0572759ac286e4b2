"""What a Corona-Net is: its card, its pixels, its networks, its decisions and its metrics."""
