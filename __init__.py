"""Corona-Net: chest CT networks from training to a served, measured, provably faithful deployment.

Research software, not a medical device.
"""
