"""What every HTML page of this project shares: its style and how its charts are drawn."""
