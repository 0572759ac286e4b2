"""UCSD COVID-CT, a classification benchmark of its own."""
