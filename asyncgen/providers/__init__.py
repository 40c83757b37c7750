"""Providers: profiles, address, key, prices and shutdown dates."""
