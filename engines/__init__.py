"""Running a bundle: one interface, five backends."""
