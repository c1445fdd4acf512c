"""Who answers, and what must happen first."""
