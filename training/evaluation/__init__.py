"""Scores of networks and of other people's maps; `coronanet evaluate` alone opens the test splits."""
