"""`coronanet bench report`: whatever was measured, as one HTML page with charts."""
