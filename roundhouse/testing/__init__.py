"""For those who write providers: the tests that every provider passes."""
