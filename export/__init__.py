"""From weights to a bundle that carries its own proof."""
