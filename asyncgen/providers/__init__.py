"""Who answers: profiles, address, key, prices, shutdown dates."""
