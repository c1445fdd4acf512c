"""People judge answers without knowing whose they are: a page on this machine, and statistics of what they said."""
