"""What an answer is worth: measures of one answer, and of many."""
