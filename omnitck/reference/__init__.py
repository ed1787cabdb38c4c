"""Certified providers in memory: the executable specification of each contract, and good fakes for an application's tests."""
